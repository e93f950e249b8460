// Small kernels with one mistake each, chosen at run time, for the tests of the emulation (not of the project's
// kernels). plant(0) is the correct form. The numbers stand in enum Bug.
#include "common/cuda_async.cuh"
#include "common/launch.h"

enum Bug {
  kNone,
  kMissingBarrier,      // norm: a warp reads what another writes, no barrier between
  kReadPastEnd,         // bias: one element past the end of global memory
  kDivergentBarrier,    // norm: one warp does not come to the barrier
  kDynamicOverflow,     // fir: writes one past its dynamic shared memory
  kAbsentLanes,         // norm: a shuffle whose mask names lanes that do not come
  kExitBeforeBarrier,   // norm: threads leave before a barrier
  kStaticOverflow,      // norm: writes one past a __shared__ array
  kMissingWarBarrier,   // fir: overwrites what others still read
  kMisaligned,          // bias: a 16-byte load from an address that 16 does not divide
  kSharedOverflow,      // sum: writes past GK_SHARED through a pointer
  kMissingWait,         // ring: reads before cp.async has arrived
  kMissingWaitBarrier,  // ring: reads what another thread's cp.async brings, no barrier between
  kRefilledTooEarly,    // ring: cp.async into a stage that others still read
  kMisalignedCopy,      // ring: cp.async from an address that 4 does not divide
  kUnwrittenOutput,     // bias: the last output is left out
};
static int bug = kNone;

// ---- y = leaky_relu(x + bias[channel]) ------------------------------------------------------------------------------
__device__ float leaky(float v) { return v > 0.f ? v : 0.2f * v; }

__global__ void bias_vector(const float* x, const float* bias, float* y, int n, int channels, int hw) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i >= n) return;
  const float4 v = __ldg(reinterpret_cast<const float4*>(x + (bug == kMisaligned ? (i + 1 < n - 4 ? i + 1 : 1) : i)));
  const float b = bias[i / hw % channels];  // hw % 4 == 0: one channel for all four
  *reinterpret_cast<float4*>(y + i) = make_float4(leaky(v.x + b), leaky(v.y + b), leaky(v.z + b), leaky(v.w + b));
}

__global__ void bias_scalar(const float* x, const float* bias, float* y, int n, int channels, int hw) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (bug == kReadPastEnd ? i > n : i >= n) return;
  const float v = x[i] + bias[i / hw % channels];
  if (i >= n || (bug == kUnwrittenOutput && i == n - 1)) return;
  y[i] = leaky(v);
}

// ---- normalisation of a plane: sums over a block --------------------------------------------------------------------
__device__ float2 warp_sum(float2 v) {
  for (int d = 16; d > 0; d >>= 1) {
    v.x += __shfl_xor_sync(0xffffffffu, v.x, d);
    v.y += __shfl_xor_sync(0xffffffffu, v.y, d);
  }
  return v;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) norm(const float* x, float* y, int hw) {
  __shared__ float sums[kThreads / 32], squares[kThreads / 32];
  __shared__ float2 result;
  const float* p = x + static_cast<size_t>(blockIdx.x) * hw;
  float2 s = make_float2(0.f, 0.f);
  for (int i = threadIdx.x; i < hw; i += kThreads) s.x += p[i], s.y += p[i] * p[i];
  s = warp_sum(s);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  if (lane == 0) sums[warp + (bug == kStaticOverflow)] = s.x, squares[warp] = s.y;
  if (bug == kExitBeforeBarrier && static_cast<int>(threadIdx.x) >= hw) return;
  if (bug != kMissingBarrier && !(bug == kDivergentBarrier && warp == 1)) __syncthreads();
  if (warp == 0 && !(bug == kAbsentLanes && lane >= 8)) {
    const bool in = lane < kThreads / 32;
    s = warp_sum(make_float2(in ? sums[lane] : 0.f, in ? squares[lane] : 0.f));
    const float mean = s.x / hw;
    if (lane == 0) result = make_float2(mean, rsqrtf(s.y / hw - mean * mean + 1e-5f));
  }
  __syncthreads();
  float* q = y + static_cast<size_t>(blockIdx.x) * hw;
  for (int i = threadIdx.x; i < hw; i += kThreads) q[i] = (p[i] - result.x) * result.y;
}

// ---- k x k FIR filter with its tile and taps in dynamic shared memory
// -------------------------------------------------
constexpr int kTileX = 32, kTileY = 8;

__global__ void fir(const float* x, const float* taps, float* y, int h, int w, int k, int planes) {
  GK_DYNAMIC_SHARED(float, shared);
  const int sw = kTileX + k - 1, sh = kTileY + k - 1, tid = threadIdx.y * kTileX + threadIdx.x;
  float *tile = shared, *f = shared + sw * sh;
  const int x0 = blockIdx.x * kTileX - k / 2, y0 = blockIdx.y * kTileY - k / 2;
  for (int i = tid; i < k * k + (bug == kDynamicOverflow); i += kTileX * kTileY) f[i] = i < k * k ? taps[i] : 0.f;
  for (int p = blockIdx.z; p < planes; p += gridDim.z) {
    const float* src = x + static_cast<size_t>(p) * h * w;
    for (int i = tid; i < sw * sh; i += kTileX * kTileY) {
      const int sx = x0 + i % sw, sy = y0 + i / sw;
      tile[i] = sx >= 0 && sx < w && sy >= 0 && sy < h ? src[sy * w + sx] : 0.f;
    }
    __syncthreads();
    const int ox = blockIdx.x * kTileX + threadIdx.x, oy = blockIdx.y * kTileY + threadIdx.y;
    float sum = 0.f;
    for (int b = 0; b < k; ++b)
      for (int a = 0; a < k; ++a) sum += f[b * k + a] * tile[(threadIdx.y + b) * sw + threadIdx.x + a];
    if (ox < w && oy < h) y[(static_cast<size_t>(p) * h + oy) * w + ox] = sum;
    if (bug != kMissingWarBarrier) __syncthreads();  // before the next plane overwrites the tile
  }
}

// ---- sums of blocks, GK_SHARED and atomics
// ------------------------------------------------------------------------------
__global__ void sum(const float* x, int n, double* total, int* positive) {
  GK_SHARED(double, part, [256]);
  double s = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) s += x[i];
  double* q = part;
  if (bug == kSharedOverflow) q[threadIdx.x + 1] = s;
  q[threadIdx.x] = s;
  __syncthreads();
  for (unsigned d = blockDim.x / 2; d > 0; d /= 2) {
    if (threadIdx.x < d) q[threadIdx.x] += q[threadIdx.x + d];
    __syncthreads();
  }
  if (threadIdx.x == 0) atomicAdd(total, q[0]);
  const unsigned votes = __ballot_sync(0xffffffffu, s > 0);
  if ((threadIdx.x & 31) == 0) atomicAdd(positive, __popc(votes));
}

// ---- y = sum of two neighbouring columns, rows through a ring that cp.async fills
// -----------------------------------------
__global__ void ring(const float* x, float* y, int h) {
  GK_SHARED(float, stages, [3][64]);
  const int t = threadIdx.x;  // 64 threads, rows of 64
  auto fill = [&](int row) {
    const char* from = reinterpret_cast<const char*>(x + row * 64 + t) + (bug == kMisalignedCopy ? 2 : 0);
    if (row < h) gk::async_copy<4>(&stages[row % 3][t], from, 1);
    gk::async_commit();
  };
  fill(0), fill(1);
  for (int row = 0; row < h; ++row) {
    if (bug != kMissingWait) gk::async_wait<1>();
    if (bug == kRefilledTooEarly) fill(row + 2);
    if (bug != kMissingWaitBarrier) __syncthreads();
    if (bug != kRefilledTooEarly) fill(row + 2);
    y[row * 64 + t] = stages[row % 3][t] + (t < 63 ? stages[row % 3][t + 1] : 0.f);
    if (bug == kMissingWaitBarrier) __syncthreads();
  }
}

// ---- the primitives: 12 results for each of 64 threads
// --------------------------------------------------------------------
__global__ void primitives(const int* in, int delta, int width, int* out, double* acc) {
  const int t = threadIdx.x, v = in[t];
  const unsigned all = 0xffffffffu, half = t & 16 ? 0xffff0000u : 0x0000ffffu;
  int* o = out + t * 12;
  o[0] = __shfl_sync(all, v, delta, width);
  o[1] = __shfl_up_sync(all, v, delta, width);
  o[2] = static_cast<int>(__shfl_down_sync(all, static_cast<float>(v), delta, width));
  o[3] = static_cast<int>(__shfl_xor_sync(all, static_cast<double>(v), delta, width));
  o[4] = static_cast<int>(__ballot_sync(half, v & 1));
  o[5] = __any_sync(half, v == 7) * 2 + __all_sync(half, v >= 0);
  o[6] = __syncthreads_count(v & 1);
  o[7] = __syncthreads_or(v == 7) * 2 + __syncthreads_and(v >= 0);
  o[8] = static_cast<int>(__activemask());
  if (t & 1) __syncwarp(0xaaaaaaaau);
  atomicAdd(acc, 0.5 * v);
  atomicAdd(reinterpret_cast<float*>(acc + 1), 0.25f * v);
  atomicAdd(reinterpret_cast<int*>(acc + 2), v);
  atomicMax(reinterpret_cast<int*>(acc + 3), v);
  o[9] = min(v, delta);
  o[10] = static_cast<int>(max(static_cast<float>(v), 3.f) + fminf(v, 2.f));
  o[11] = static_cast<int>(blockIdx.x * 10000 + gridDim.x * 1000 + blockDim.x);
}

static unsigned blocks(int n, int size) { return static_cast<unsigned>((n + size - 1) / size); }
extern "C" {
void plant(int number) { bug = number; }
int run_bias(int vector, const float* x, const float* bias, float* y, int n, int channels, int hw) {
  if (vector)
    GK_LAUNCH(bias_vector, blocks(n / 4, 256), 256, 0, nullptr, x, bias, y, n, channels, hw);
  else
    GK_LAUNCH(bias_scalar, blocks(n + 1, 256), 256, 0, nullptr, x, bias, y, n, channels, hw);
  return cudaGetLastError();
}
int run_norm(const float* x, float* y, int planes, int hw) {
  GK_LAUNCH((norm<256>), planes, 256, 0, nullptr, x, y, hw);
  return cudaGetLastError();
}
int run_fir(const float* x, const float* taps, float* y, int planes, int h, int w, int k) {
  const size_t bytes = ((kTileX + k - 1) * (kTileY + k - 1) + k * k) * sizeof(float);
  if (bytes > 48 * 1024) {
    const cudaError_t e =
        cudaFuncSetAttribute(fir, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (e != cudaSuccess) return e;
  }
  const dim3 grid(blocks(w, kTileX), blocks(h, kTileY), (planes + 1) / 2);
  GK_LAUNCH(fir, grid, dim3(kTileX, kTileY), bytes, nullptr, x, taps, y, h, w, k, planes);
  return cudaGetLastError();
}
int run_sum(const float* x, int n, double* total, int* positive) {
  GK_LAUNCH(sum, 3, 256, 0, nullptr, x, n, total, positive);
  return cudaGetLastError();
}
int run_ring(const float* x, float* y, int h) {
  GK_LAUNCH(ring, 1, 64, 0, nullptr, x, y, h);
  return cudaGetLastError();
}
int run_primitives(const int* in, int delta, int width, int* out, double* acc) {
  GK_LAUNCH(primitives, 1, 64, 0, nullptr, in, delta, width, out, acc);
  return cudaGetLastError();
}
}
