// What the two forms of the CPU kernels share: where samples are, memory, tasks. Include from grid_sample_cpu.cpp only.
#pragma once
#include <cstdlib>

#include "common/cpu_vec.h"
#include "grid_sample/grid_sample_params.h"

namespace gk {
namespace GK_ISA {
namespace {

constexpr const char* kNoMemory = "out of memory";
constexpr int64_t kMostSamples = 256;    // of a tile
constexpr int64_t kTileNumbers = 4096;   // about: 16 KB of floats
constexpr int64_t kTaskNumbers = 32768;  // about: some 10 us of work

GK_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
GK_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
GK_INLINE int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

// Integers of the accumulation type's size; kSplit as gk::Split in grid_sample_math.h.
template <class Acc>
struct IntOf {
  using Vec = IntVec;
  using T = int32_t;
  static constexpr float kSplit = 6144.0f;
};
template <>
struct IntOf<double> {
  using Vec = LongVec;
  using T = int64_t;
  static constexpr double kSplit = 100663296.0;
};

// Null if there is no memory. To be freed by std::free, by hand: a destructor would bring unwinding code that the
// variants of this file share.
template <class Acc>
Acc* allocate(int64_t numbers) {
  return static_cast<Acc*>(std::aligned_alloc(64, round_up(numbers * static_cast<int64_t>(sizeof(Acc)), 64)));
}

// Runs body(task), which gives false where there is no memory, for all tasks. Null or a message.
template <class Body>
const char* for_tasks(ParallelFor parallel, int64_t tasks, const Body& body) {
  struct Context {
    const Body& body;
    mutable int failed;
  } context{body, 0};
  parallel(
      tasks,
      [](const void* pointer, int64_t begin, int64_t end) {
        const Context& c = *static_cast<const Context*>(pointer);
        for (int64_t i = begin; i < end; ++i)
          if (!c.body(i)) __atomic_store_n(&c.failed, 1, __ATOMIC_RELAXED);
      },
      &context);
  return context.failed ? kNoMemory : nullptr;
}

// Numbers of samples or pixels, by the form: [pixel][channels], stride from pixel to pixel, or [channel][pixels], stride
// from channel to channel. data is null where there is no such tensor.
template <class Acc>
struct Tile {
  Acc* data;
  int64_t stride;
};

// An image: number (c, y, x) is data[y * row + x * column + c * channel].
template <class Acc>
struct Image {
  Acc* data;
  int64_t row, column, channel;
};

// Calls body(offset of the first pixel in v, its index in the range, n) for the rows, or pieces of rows, that make up
// pixels [first, first + count) of an image.
template <class Body>
GK_INLINE void for_rows(const View4& v, int64_t first, int64_t count, Body body) {
  const bool whole = v.stride[2] == v.size[3] * v.stride[3];  // the image is one long row
  const int64_t length = whole ? v.size[2] * v.size[3] : v.size[3];
  int64_t row = first / length, i = first % length;
  for (int64_t done = 0; done < count; ++row, i = 0) {
    const int64_t n = min64(length - i, count - done);
    body(row * v.stride[2] + i * v.stride[3], done, n);
    done += n;
  }
}

constexpr int kLowX = 1, kHighX = 2, kLowY = 4, kHighY = 8, kFour = 15;  // which of a sample's pixels exist

template <class Acc>
struct Samples {
  using Int = typename IntOf<Acc>::T;
  int64_t count;
  alignas(64) Int x[kMostSamples], y[kMostSamples], exist[kMostSamples];
  alignas(64) Acc part_x[kMostSamples], part_y[kMostSamples];
  bool exists(int64_t i, int which) const { return (exist[i] & which) == which; }
};

// gk::bracket on vectors. Sizes below 2^31 (2^63 for double), which the binding checks.
template <class Acc, class V, class I>
GK_INLINE void bracket_vector(V g, int64_t pixels, V* part, I* low, I* exist_low, I* exist_high) {
  using Number = typename IntOf<Acc>::T;
  const Acc size = static_cast<Acc>(pixels), half = size / 2;
  const V leading = (g + IntOf<Acc>::kSplit) - IntOf<Acc>::kSplit;
  const V exact = leading * half + (half - Acc(0.5)), rest = (g - leading) * half, position = exact + rest;
  const I near = (I)(position > Acc(-2)) & (I)(position < size + 1);  // false for NaN
  const V q = (V)((I)position & near);
  I floor = __builtin_convertvector(q, I);
  floor += (I)(__builtin_convertvector(floor, V) > q);  // towards minus infinity: true is -1
  V past = ((V)((I)exact & near) - __builtin_convertvector(floor, V)) + (V)((I)rest & near);
  const I under = (I)(past < Acc(0));
  floor += under, past -= __builtin_convertvector(under, V);
  const I over = (I)(past >= Acc(1));
  floor -= over, past += __builtin_convertvector(over, V);
  *part = past;
  *low = floor;
  *exist_low = near & (I)(floor >= 0) & (I)(floor < static_cast<Number>(pixels));
  *exist_high = near & (I)(floor >= -1) & (I)(floor < static_cast<Number>(pixels - 1));
}

template <class Acc>
void locate(const GridSampleParams& p, int64_t n, int64_t first, int64_t count, Samples<Acc>& s) {
  using Scratch = typename ScratchOf<Acc>::type;
  using V = typename Scratch::Vec;
  using I = typename IntOf<Acc>::Vec;
  constexpr int lanes = Scratch::lanes;
  const Acc* grid = static_cast<const Acc*>(p.grid) + 2 * (n * p.y.size[2] * p.y.size[3] + first);
  s.count = count;
  for (int64_t i = 0; i < count; i += lanes) {
    const int64_t left = 2 * (count - i);
    const Acc* at = grid + 2 * i;
    const V a = left >= lanes ? Scratch::load(at) : Scratch::load(at, left);
    const V b = left >= 2 * lanes ? Scratch::load(at + lanes)
                : left > lanes    ? Scratch::load(at + lanes, left - lanes)
                                  : V{};
    V part;
    I low, exist_low, exist_high;
    bracket_vector<Acc>(even_lanes(a, b), p.x.size[3], &part, &low, &exist_low, &exist_high);
    Scratch::store(s.part_x + i, part), store_bits(s.x + i, low);
    I exist = (exist_low & kLowX) | (exist_high & kHighX);
    bracket_vector<Acc>(odd_lanes(a, b), p.x.size[2], &part, &low, &exist_low, &exist_high);
    Scratch::store(s.part_y + i, part), store_bits(s.y + i, low);
    exist |= (exist_low & kLowY) | (exist_high & kHighY);
    store_bits(s.exist + i, exist);
  }
}

// The four pixels of a sample, zero where they do not exist.
template <class V>
struct Corners {
  V v00, v01, v10, v11;
  GK_INLINE V top() const { return v01 - v00; }  // differences along x
  GK_INLINE V bottom() const { return v11 - v10; }
  GK_INLINE V left() const { return v10 - v00; }  // along y
  GK_INLINE V right() const { return v11 - v01; }
};

}  // namespace
}  // namespace GK_ISA
}  // namespace gk
