// Rectangles of an image, and the numbers that belong to their rows: what the CPU kernels of modulate share. Include from
// *_cpu.cpp only (see common/cpu_isa.h).
#pragma once
#include "bias_act/bias_act_cpu.h"
#include "modulate/modulate_params.h"

namespace gk {
namespace GK_ISA {
namespace {

struct Rectangle {
  int64_t sample, pixel, channel;      // where it begins
  int64_t pixels, channels;            // how large it is
  int64_t pixel_index, channel_index;  // which of its sample
};

Rectangle rectangle(const ModulateParams& p, int64_t index) {
  Rectangle r;
  r.channel_index = index % p.channel_chunks;
  r.pixel_index = index / p.channel_chunks % p.pixel_chunks;
  r.sample = index / p.channel_chunks / p.pixel_chunks;
  r.channel = r.channel_index * p.channel_chunk, r.pixel = r.pixel_index * p.pixel_chunk;
  r.channels = min64(p.channel_chunk, p.channels - r.channel);
  r.pixels = min64(p.pixel_chunk, p.pixels - r.pixel);
  return r;
}

template <class T, class Void>
GK_INLINE auto at(Void* data, int64_t i) {
  return offset(static_cast<T*>(data), i);
}

// ---- x * factor + addend -------------------------------------------------------------------------------------------
// The numbers of one row.
template <class S>
struct Line {
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  using Scratch = typename ScratchOf<Acc>::type;
  Acc factor, addend;
  const Acc *factors, *addends;  // along the row, or null

  template <class Access>
  GK_INLINE Vec times(Vec x, int64_t i, Access access) const {
    return factors ? x * load<Scratch>(factors + i, access) : x * factor;
  }
  template <class Access>
  GK_INLINE Vec apply(Vec x, int64_t i, Access access) const {
    const Vec v = times(x, i, access) + addend;
    return addends ? v + load<Scratch>(addends + i, access) : v;
  }
};

// The numbers of several rows: v = x * scale + noise + b, and the same of their cotangents. Each may be absent.
template <class S>
struct Lines {
  using Acc = typename S::Acc;
  const Acc *row_factors, *row_addends, *factors, *addends;

  Line<S> operator[](int64_t row) const {
    return {row_factors ? row_factors[row] : Acc(1), row_addends ? row_addends[row] : Acc(0), factors, addends};
  }
};

// What belongs to a rectangle: numbers of its channels and of its pixels, and their sums. Null pointers: absent.
template <class Acc>
struct Numbers {
  const Acc *scale, *noise, *b;        // of v
  const Acc *u_scale, *u_noise, *u_b;  // of U
  Acc *channel_sums, *pixel_sums;      // of g
  Acc* channel_products;               // of g * x, or of u * g

  Numbers(const ModulateParams& p, const Rectangle& r) {
    const int64_t of_channel = r.sample * p.channels + r.channel, of_pixel = r.sample * p.pixels + r.pixel;
    const int64_t sums = (r.sample * p.pixel_chunks + r.pixel_index) * p.channels + r.channel;
    scale = at<const Acc>(p.scale, of_channel), u_scale = at<const Acc>(p.u_scale, of_channel);
    noise = at<const Acc>(p.noise, p.noise ? r.sample % p.noise_samples * p.pixels + r.pixel : 0);
    u_noise = at<const Acc>(p.u_noise, of_pixel);
    b = at<const Acc>(p.b, r.channel), u_b = at<const Acc>(p.u_b, r.channel);
    channel_sums = at<Acc>(p.db_partial, sums);
    pixel_sums = at<Acc>(p.dnoise_partial, r.channel_index * p.samples * p.pixels + of_pixel);
    channel_products = at<Acc>(p.dscale_partial ? p.dscale_partial : p.d_scale_partial, sums);
  }
};

}  // namespace
}  // namespace GK_ISA
}  // namespace gk
