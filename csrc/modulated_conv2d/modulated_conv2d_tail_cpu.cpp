// The tail of a modulated convolution on the CPU (see modulated_conv2d_params.h): channels are along the vectors, so that all
// that belongs to a channel is loaded as z is, and all that belongs to a pixel is one number.
#include "bias_act/bias_act_cpu.h"
#include "modulated_conv2d/modulated_conv2d_params.h"

namespace gk {
namespace GK_ISA {
namespace {

using Params = ModulatedConv2dTailParams;
using Vec = FloatVec;

constexpr int64_t kBand = 512;  // channels whose filtered columns are kept at a time: 6 KB

// What belongs to one row of pixels of one sample.
struct Row {
  int64_t sample, h;
  const float *scale, *b, *next, *noise, *colours;

  Row(const Params& p, int64_t index) : sample(index / p.height), h(index % p.height) {
    scale = offset(p.scale, sample * p.scale_stride);
    b = p.b;
    next = offset(p.next, sample * p.next_stride);
    noise = offset(p.noise, ((sample % (p.noise ? p.noise_samples : 1)) * p.height + h) * p.width);
    colours = offset(p.rgb_weight, sample * kTailColours * p.channels);
  }
};

template <Act act, class Access>
GK_INLINE Vec activated(Vec v, const Row& r, float noise, int64_t c, const ActSettings<float>& s, Access access) {
  if (r.scale) v *= load<F32>(r.scale + c, access);
  v += noise;
  if (r.b) v += load<F32>(r.b + c, access);
  return act_output<act>(v, s);
}

// ---- without a filter --------------------------------------------------------------------------------------------------
// Lane i of the result is the sum of the lanes of v[i]: each step halves what belongs to one vector, and joins two of them.
GK_INLINE Vec sums_of(Vec (&v)[kFloatLanes]) {
#pragma GCC unroll 4
  for (int half = kFloatLanes / 2; half; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) v[i] = interleave_low(v[i], v[i + half]) + interleave_high(v[i], v[i + half]);
  return v[0];
}

// As many pixels at a time as a vector has lanes: so many sums over channels are finished at once, and make a piece of a row
// of RGB.
template <class S, Act act, bool colours>
void pixels(const Params& p, const Row& r, const ActSettings<float>& settings) {
  using Elem = typename S::Elem;
  const ActSettings<float> s = settings;
  const int64_t first = (r.sample * p.height + r.h) * p.width, plane = p.height * p.width;
  const int64_t at = r.sample * kTailColours * plane + r.h * p.width;
  for_vectors<F32>(p.width, [&](int64_t begin, auto piece) {
    const int64_t count = min64(kFloatLanes, p.width - begin);
    Vec sums[kTailColours][kFloatLanes];
    for (int64_t lane = 0; lane < count; ++lane) {
      const int64_t w = begin + lane;
      const Elem* z = static_cast<const Elem*>(p.z) + (first + w) * p.channels;
      Elem* y = offset(static_cast<Elem*>(p.y), (first + w) * p.channels);
      const float noise = r.noise ? r.noise[w] : 0.0f;
      Vec sum[kTailColours] = {};
      for_vectors<S>(p.channels, [&](int64_t c, auto access) {
        const Vec v = activated<act>(load<S>(z + c, access), r, noise, c, s, access);
        if constexpr (colours)
          for (int k = 0; k < kTailColours; ++k) sum[k] += v * load<F32>(r.colours + k * p.channels + c, access);
        if (y) store<S>(y + c, r.next ? v * load<F32>(r.next + c, access) : v, access);
      });
      if constexpr (colours)
        for (int k = 0; k < kTailColours; ++k) sums[k][lane] = sum[k];
    }
    if constexpr (colours) {
      const float limit = static_cast<float>(p.rgb_clamp);
      for (int k = 0; k < kTailColours; ++k) {
        for (int64_t lane = count; lane < kFloatLanes; ++lane) sums[k][lane] = Vec{};
        Vec value = sums_of(sums[k]) + (p.rgb_b ? p.rgb_b[k] : 0.0f);
        const Vec high = Vec{} + limit;
        if (limit >= 0) value = value > high ? high : value < -high ? -high : value;
        const int64_t i = at + k * plane + begin;
        store<F32>(p.rgb + i, p.base ? value + load<F32>(p.base + i, piece) : value, piece);
      }
    }
  });
}

// ---- with one ----------------------------------------------------------------------------------------------------------
// A column of z, filtered along y, serves four pixels of the row: the last three columns are kept.
template <class S, Act act>
void filtered(const Params& p, const Row& r, const ActSettings<float>& settings) {
  using Elem = typename S::Elem;
  const ActSettings<float> s = settings;
  const int64_t y0 = r.h - p.pad_y;
  float fy[kTailTaps], fx[kTailTaps];
  const Elem* rows[kTailTaps];
  for (int64_t i = 0; i < kTailTaps; ++i) {
    const bool inside = y0 + i >= 0 && y0 + i < p.z_height;
    // Rows outside are read as their neighbour inside, times 0; all are where z has none.
    const int64_t row = inside ? y0 + i : y0 + i < 0 ? 0 : p.z_height - 1;
    fy[i] = inside ? p.taps[i] : 0.0f, fx[i] = p.taps[kTailTaps + i];
    const int64_t plain = (r.sample * p.z_height + row) * p.z_width * p.channels;
    // With phases a pixel has four times the channels, and a row of them is two of z: the second half of each pixel is below.
    const int64_t phase =
        (r.sample * (p.z_height / 2) + row / 2) * 2 * p.z_width * p.channels + row % 2 * 2 * p.channels;
    rows[i] = static_cast<const Elem*>(p.z) + (p.phases ? phase : plain);
  }
  alignas(64) float kept[kTailTaps - 1][kBand];
  for (int64_t band = 0; band < p.channels; band += kBand) {
    const int64_t channels = min64(kBand, p.channels - band);
    const auto column = [&](int64_t x, int64_t c, auto access) {
      if (x < 0 || x >= p.z_width) return Vec{};
      const int64_t i = (p.phases ? x / 2 * 4 + x % 2 : x) * p.channels + band + c;
      Vec v = load<S>(rows[0] + i, access) * fy[0];
      for (int64_t k = 1; k < kTailTaps; ++k) v += load<S>(rows[k] + i, access) * fy[k];
      return v;
    };
    for (int64_t k = 0; k < kTailTaps - 1; ++k)
      for_vectors<S>(channels,
                     [&](int64_t c, auto access) { store<F32>(kept[k] + c, column(k - p.pad_x, c, access), access); });
    Elem* y = static_cast<Elem*>(p.y) + (r.sample * p.height + r.h) * p.width * p.channels + band;
    int64_t oldest = 0;
    for (int64_t w = 0; w < p.width; ++w, y += p.channels) {
      const float noise = r.noise ? r.noise[w] : 0.0f;
      float* a = kept[oldest];
      const float* b = kept[(oldest + 1) % 3];
      const float* c3 = kept[(oldest + 2) % 3];
      for_vectors<S>(channels, [&](int64_t c, auto access) {
        const Vec last = column(w + 3 - p.pad_x, c, access);
        const Vec u = load<F32>(a + c, access) * fx[0] + load<F32>(b + c, access) * fx[1] +
                      load<F32>(c3 + c, access) * fx[2] + last * fx[3];
        store<F32>(a + c, last, access);
        const Vec v = activated<act>(u, r, noise, band + c, s, access);
        store<S>(y + c, r.next ? v * load<F32>(r.next + band + c, access) : v, access);
      });
      oldest = (oldest + 1) % 3;
    }
  }
}

template <class S, Act act>
void run(const Params& p, int64_t begin, int64_t end) {
  const ActSettings<float> settings(p.alpha, p.gain, p.clamp);
  for (int64_t i = begin; i < end; ++i) {
    const Row row(p, i);
    if (p.taps)
      filtered<S, act>(p, row, settings);
    else if (p.rgb)
      pixels<S, act, true>(p, row, settings);
    else
      pixels<S, act, false>(p, row, settings);
  }
}

template <class S>
void with_activation(const Params& p, int64_t begin, int64_t end) {
  with_act(p.act, [&](auto tag) { run<S, tag.act>(p, begin, end); });
}

}  // namespace

void modulated_conv2d_tail_cpu(const ModulatedConv2dTailParams& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::f32: return with_activation<F32>(p, begin, end);
    case DType::f16: return with_activation<F16>(p, begin, end);
    case DType::bf16: return with_activation<BF16>(p, begin, end);
    case DType::f64: return;  // refused by the binding
  }
}

}  // namespace GK_ISA
}  // namespace gk
