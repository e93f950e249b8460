// filtered_lrelu on CUDA.
//
// What limits it (H200: copies at 4.3 TB/s; 132 multiprocessors issue 30e12 lane instructions a second, an FMA each at
// best). Up 2 and down 2 with 12 taps each, separable: an output is 4 numbers of the intermediate image, and takes 12
// FMA to filter along x, 24 along y, some 20 for the activation, 24 along y again and 12 along x; a bf16 image leaves
// time for 27 instructions an output. So arithmetic limits it, and everything else must be kept small beside it:
//   - the intermediate image is not even in shared memory: a thread walks down a column of the image that has been
//     filtered along x, has the last rows of it and the sums that it has begun in registers, and what comes between is
//     in its registers alone (`middle`). It is only where a filter is not separable.
//   - every separable pass loads each number once, without bank conflicts; taps are in registers.
//   - which tap meets which number is fixed when compiled: a tile's units begin at the same phase whatever the padding.
// Tiles bring a halo, (16 * 2 + 10)^2 / (16 * 2)^2 = 1.7 times the numbers at 16 x 16 outputs; larger ones leave fewer
// blocks to a multiprocessor. NCHW tiles are twice as wide and have 4 planes for 8 channels: rows long enough to load.
//
// filtered_lrelu_tiles: factors (2, 2), (4, 2), (2, 4) with 12 taps for each factor of 2, one of the filters full;
// (1, 1) without filters. A shorter filter is filled up with zero taps (so infinities may spread to where it does not
// reach). filtered_lrelu_generic: anything else, and float64.
#include <cstdlib>
#include <initializer_list>
#include <limits>

#include "filtered_lrelu/filtered_lrelu_cuda_generic.cuh"
#include "filtered_lrelu/filtered_lrelu_cuda_passes.cuh"

namespace gk {
namespace {

template <class S, Mode kMode>
__device__ __forceinline__ void passes(const FastArgs& a, const Tile<S>& tile, float* first, float* second,
                                       const float* up_taps, const float* down_taps) {
  const float* low = first;
  if constexpr (S::kFull == Full::up) {
    raise<S, kMode>(a, tile, first, up_taps, second);
    __syncthreads();
    lower(tile, second, down_taps, first);
  } else if constexpr (S::kFull == Full::down) {
    middle<S, kMode, 0>(a, tile, second, up_taps, down_taps, first);
  } else {
    // Alike in all blocks.
    if (S::kLeadY && tile.need_y != tile.base_y)
      middle<S, kMode, S::kLeadY>(a, tile, second, up_taps, down_taps, first);
    else
      middle<S, kMode, 0>(a, tile, second, up_taps, down_taps, first);
  }
  __syncthreads();
  if constexpr (S::kFull == Full::down)
    gather(tile, low, down_taps, second);
  else
    narrow(tile, low, down_taps, second);
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kThreads == 128 ? 3 : 2) filtered_lrelu_tiles(const FastArgs a) {
  GK_DYNAMIC_SHARED(float, shared);
  float *first = shared, *second = shared + S::kFirst;
  float *up_taps = second + S::kSecond, *down_taps = up_taps + round_up(S::kUpTaps, 4);
  const Tile<S> tile(a);
  // Separable taps are multiplied along both axes, and scaled along the second.
  copy_taps<S::KU, S::kFull == Full::up, S::UP, S::kThreads>(up_taps, a.up_taps, a.up_h, a.up_w, a.flip, a.up_none,
                                                             S::kFull == Full::up ? a.scale : 1.f);
  copy_taps<S::KD, S::kFull == Full::down, 1, S::kThreads>(down_taps, a.down_taps, a.down_h, a.down_w, a.flip,
                                                           a.down_none, 1.f);
  with_dtype(a.dtype, [&](auto type) { load_pixels(a, tile, first, type); });
  __syncthreads();
  if constexpr (S::kFull != Full::up) {
    widen<S>(first, up_taps, second);
    __syncthreads();
  }
  if (a.mask_in)
    passes<S, Mode::read_mask>(a, tile, first, second, up_taps, down_taps);
  else if (S::kFull != Full::up && a.mask_out)
    passes<S, S::kFull == Full::up ? Mode::activate : Mode::write_mask>(a, tile, first, second, up_taps, down_taps);
  else
    passes<S, Mode::activate>(a, tile, first, second, up_taps, down_taps);
  __syncthreads();
  with_dtype(a.dtype, [&](auto type) { store_pixels(a, tile, second, type); });
}

// ---- launching ------------------------------------------------------------------------------------------------------
constexpr char kNotServed[] = "";  // by this kernel: the generic one takes over

const char* launched() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t size_of(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }

template <class S>
const char* launch_fast(const FilteredLreluParams& p, cudaStream_t stream) {
  FastArgs a{};
  constexpr int64_t kMost = 1 << 28;  // coordinates are ints there
  for (int i = 1; i < 4; ++i)
    if (p.x.size[i] >= kMost || p.y.size[i] >= kMost) return kNotServed;
  for (int64_t v : {p.start_x, p.start_y, p.offset_x, p.offset_y, p.mid_h, p.mid_w})
    if (v <= -kMost || v >= kMost) return kNotServed;
  if (p.y.size[2] * S::DOWN >= kMost || p.y.size[3] * S::DOWN >= kMost) return kNotServed;
  // Without masks to read, everything that is summed must lie in the intermediate image (as always in forward), and all
  // that is written in the tiles.
  const int64_t need_h = (p.y.size[2] - 1) * S::DOWN + p.down_h, need_w = (p.y.size[3] - 1) * S::DOWN + p.down_w;
  if (!p.mask_in &&
      (p.offset_x < 0 || p.offset_y < 0 || p.offset_x + need_w > p.mid_w || p.offset_y + need_h > p.mid_h))
    return kNotServed;
  if (p.mask_out && (S::kFull == Full::up || p.offset_x || p.offset_y || need_w < p.mid_w || need_h < p.mid_h))
    return kNotServed;

  a.x = p.x.data, a.y = p.y.data, a.bias = static_cast<const float*>(p.bias);
  a.up_taps = static_cast<const float*>(p.up_taps), a.down_taps = static_cast<const float*>(p.down_taps);
  a.up_none = !p.up_taps, a.down_none = !p.down_taps;
  a.mask_in = p.mask_in, a.mask_out = p.mask_out;
  const int64_t channels = p.y.size[1], size = size_of(p.dtype);
  uintptr_t bits = reinterpret_cast<uintptr_t>(a.x) | reinterpret_cast<uintptr_t>(a.y);
  for (int i = 0; i < 4; ++i) {
    a.x_stride[i] = p.x.size[i] > 1 ? p.x.stride[i] : 0, a.y_stride[i] = p.y.size[i] > 1 ? p.y.stride[i] : 0;
    // Offsets within a tile, of 64 x 64 pixels at most, are ints.
    constexpr int64_t kLongest = 1 << 23;
    if (i > 1 && (std::abs(a.x_stride[i]) >= kLongest || std::abs(a.y_stride[i]) >= kLongest)) return kNotServed;
    if (i != 1) bits |= static_cast<uintptr_t>(a.x_stride[i] * size) | static_cast<uintptr_t>(a.y_stride[i] * size);
  }
  a.wide = S::kLast && channels % 8 == 0 && bits % 16 == 0;
  a.mask_pixel = static_cast<int>(mask_bytes(channels));
  a.mask_row = S::kLast ? p.mid_w * a.mask_pixel : mask_bytes(p.mid_w);
  a.mask_image = p.mid_h * a.mask_row;
  a.planes = p.y.size[0] * channels, a.channels = static_cast<int>(channels);
  a.in_h = static_cast<int>(p.x.size[2]), a.in_w = static_cast<int>(p.x.size[3]);
  a.out_h = static_cast<int>(p.y.size[2]), a.out_w = static_cast<int>(p.y.size[3]);
  a.mid_h = static_cast<int>(p.mid_h), a.mid_w = static_cast<int>(p.mid_w);
  a.up_h = static_cast<int>(p.up_h), a.up_w = static_cast<int>(p.up_w);
  a.down_h = static_cast<int>(p.down_h), a.down_w = static_cast<int>(p.down_w);
  a.start_x = static_cast<int>(p.start_x), a.start_y = static_cast<int>(p.start_y);
  a.offset_x = static_cast<int>(p.offset_x), a.offset_y = static_cast<int>(p.offset_y);
  // Rows between the beginning of a unit and the first that is needed: at most 1, or the tiles begin an output earlier.
  if (S::kFull == Full::none && S::UP > 2) {
    const int64_t lead = ((p.offset_y - p.start_y - 1) % S::UP + S::UP) % S::UP;
    a.first_out_y = -static_cast<int>(lead / S::DOWN);
  }
  a.dtype = p.dtype, a.flip = p.flip;
  a.scale = static_cast<float>(p.scale), a.slopes = lrelu_slopes<float>(p.gain, p.negative_slope);
  a.clamp = p.clamp < 0 ? std::numeric_limits<float>::infinity() : static_cast<float>(p.clamp);
  a.tiles_x = static_cast<int>(ceil_div(a.out_w, S::TW));
  a.tiles_y = static_cast<int>(ceil_div(a.out_h - a.first_out_y, S::TH));
  a.tiles_c = S::kLast ? static_cast<int>(ceil_div(channels, S::CT)) : 1;
  const int64_t blocks = (S::kLast ? p.y.size[0] * a.tiles_c : ceil_div(a.planes, S::CT)) * a.tiles_x * a.tiles_y;
  if (blocks > 0x7fffffff) return kNotServed;
  if (S::kBytes > 48 * 1024 &&
      cudaFuncSetAttribute(filtered_lrelu_tiles<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kBytes) !=
          cudaSuccess) {
    cudaGetLastError();  // a GPU with less shared memory
    return kNotServed;
  }
  GK_LAUNCH((filtered_lrelu_tiles<S>), static_cast<unsigned>(blocks), S::kThreads, static_cast<size_t>(S::kBytes),
            stream, a);
  return launched();
}

// Tiles of the compiled kernels: outputs along x and y, channels or planes, threads.
template <int UP, int DOWN, Full kFull, bool kLast>
const char* launch_plan(const FilteredLreluParams& p, cudaStream_t stream) {
  constexpr int KU = UP == 1 ? 1 : 6 * UP, KD = DOWN == 1 ? 1 : 6 * DOWN;
  if (p.up_h > KU || p.up_w > KU || p.down_h > KD || p.down_w > KD) return kNotServed;
  constexpr bool kUpFull = kFull == Full::up;
  if constexpr (DOWN == 4 && kLast)
    return launch_fast<Plan<UP, DOWN, KU, KD, kFull, 8, 8, kUpFull ? 4 : 8, true, kUpFull ? 128 : 256>>(p, stream);
  else if constexpr (DOWN == 4)
    return launch_fast<Plan<UP, DOWN, KU, KD, kFull, 16, 8, kUpFull ? 2 : 4, false, 128>>(p, stream);
  else if constexpr (kLast)
    return launch_fast<Plan<UP, DOWN, KU, KD, kFull, 16, 16, 8, true, kFull == Full::none ? 128 : 256>>(p, stream);
  else
    return launch_fast<Plan<UP, DOWN, KU, KD, kFull, 32, 16, 4, false, kFull == Full::none ? 128 : 256>>(p, stream);
}

template <bool kLast>
const char* launch_layout(const FilteredLreluParams& p, cudaStream_t stream) {
  if (p.dtype == DType::f64 || p.up_x != p.up_y || p.down_x != p.down_y) return kNotServed;
  const bool up_full = p.up_taps && !p.up_separable, down_full = p.down_taps && !p.down_separable;
  const auto factors = [&](int up, int down) { return p.up_x == up && p.down_x == down; };
  if (up_full && down_full) return kNotServed;
  if (up_full) {
    if (factors(2, 2)) return launch_plan<2, 2, Full::up, kLast>(p, stream);
    if (factors(2, 4)) return launch_plan<2, 4, Full::up, kLast>(p, stream);
  } else if (down_full) {
    if (factors(2, 2)) return launch_plan<2, 2, Full::down, kLast>(p, stream);
    if (factors(4, 2)) return launch_plan<4, 2, Full::down, kLast>(p, stream);
  } else {
    if (factors(2, 2)) return launch_plan<2, 2, Full::none, kLast>(p, stream);
    if (factors(4, 2)) return launch_plan<4, 2, Full::none, kLast>(p, stream);
    if (factors(2, 4)) return launch_plan<2, 4, Full::none, kLast>(p, stream);
    if (factors(1, 1)) return launch_plan<1, 1, Full::none, kLast>(p, stream);
  }
  return kNotServed;
}

template <class T>
const char* launch_generic(const FilteredLreluParams& p, cudaStream_t stream) {
  GenericArgs a{};
  a.x = p.x.data, a.y = p.y.data, a.bias = p.bias, a.up_taps = p.up_taps, a.down_taps = p.down_taps;
  a.mask_in = p.mask_in, a.mask_out = p.mask_out;
  for (int i = 0; i < 4; ++i) a.x_stride[i] = p.x.stride[i], a.y_stride[i] = p.y.stride[i];
  a.samples = p.y.size[0], a.channels = p.y.size[1];
  a.in_h = p.x.size[2], a.in_w = p.x.size[3], a.out_h = p.y.size[2], a.out_w = p.y.size[3];
  a.mid_h = p.mid_h, a.mid_w = p.mid_w;
  const int64_t groups = mask_bytes(p.channels_last ? a.channels : p.mid_w);
  a.mask_stride[3] = p.channels_last ? groups : 0;
  a.mask_stride[2] = p.channels_last ? p.mid_w * groups : groups;
  a.mask_stride[1] = p.channels_last ? 0 : p.mid_h * groups;
  a.mask_stride[0] = p.mid_h * a.mask_stride[2] * (p.channels_last ? 1 : a.channels);
  a.up_h = p.up_h, a.up_w = p.up_w, a.down_h = p.down_h, a.down_w = p.down_w;
  a.up_y = p.up_y, a.up_x = p.up_x, a.down_y = p.down_y, a.down_x = p.down_x;
  a.start_y = p.start_y, a.start_x = p.start_x, a.offset_y = p.offset_y, a.offset_x = p.offset_x;
  a.channels_last = p.channels_last, a.flip = p.flip;
  a.up_separable = p.up_separable, a.down_separable = p.down_separable;
  a.scale = p.scale, a.gain = p.gain, a.negative_slope = p.negative_slope, a.clamp = p.clamp;
  // At least 4 side by side along the groups of the mask, so that these do not straddle tiles.
  a.c_log2 = p.channels_last ? 4 : 0;
  while (a.c_log2 > 2 && (int64_t{1} << (a.c_log2 - 1)) >= a.channels) --a.c_log2;
  a.x_log2 = p.channels_last ? (8 - a.c_log2) / 2 : 4;
  a.y_log2 = 8 - a.c_log2 - a.x_log2;
  a.tiles_c = ceil_div(a.channels, int64_t{1} << a.c_log2);
  a.tiles_x = ceil_div(a.out_w, int64_t{1} << a.x_log2), a.tiles_y = ceil_div(a.out_h, int64_t{1} << a.y_log2);
  a.blocks = a.samples * a.tiles_c * a.tiles_x * a.tiles_y;
  const unsigned grid = static_cast<unsigned>(a.blocks < 0x7fffffff ? a.blocks : 0x7fffffff);
  // Coordinates, and their products with factors, that an int holds. A tile's outputs may lie beyond the image.
  bool small = true;
  for (int64_t v :
       {(a.in_w + a.up_w) * a.up_x, (a.in_h + a.up_h) * a.up_y, (a.out_w + 64) * a.down_x, (a.out_h + 64) * a.down_y,
        a.start_x, a.start_y, a.offset_x, a.offset_y, a.mid_h, a.mid_w, a.up_h * a.up_w, a.down_h * a.down_w})
    small = small && -0x07ffffff < v && v < 0x07ffffff;
  if (small)
    GK_LAUNCH((filtered_lrelu_generic<T, int>), grid, kGenericThreads, 0, stream, a);
  else
    GK_LAUNCH((filtered_lrelu_generic<T, int64_t>), grid, kGenericThreads, 0, stream, a);
  return launched();
}

}  // namespace

const char* launch_filtered_lrelu(const FilteredLreluParams& p, void* stream) {
  const cudaStream_t s = static_cast<cudaStream_t>(stream);
  const char* error = p.channels_last ? launch_layout<true>(p, s) : launch_layout<false>(p, s);
  if (error != kNotServed) return error;
  switch (p.dtype) {
    case DType::f32: return launch_generic<float>(p, s);
    case DType::f64: return launch_generic<double>(p, s);
    case DType::f16: return launch_generic<__half>(p, s);
    case DType::bf16: return launch_generic<__nv_bfloat16>(p, s);
  }
  return "unknown dtype";
}

}  // namespace gk
