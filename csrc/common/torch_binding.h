// What every *_torch.cpp needs of PyTorch's stable C++ ABI. Each binding file is compiled once per library:
//   GK_BIND_CPU    the CPU implementation, into libgankern_cpu
//   GK_BIND_CUDA   the CUDA implementation, into libgankern_cuda (no CUDA header needed: a stream is a void*)
//   GK_BIND_CUDA + GK_BIND_EMULATED   the CUDA kernels on CPU tensors through the tests' emulation
// Operators are defined in namespace gankern_native and take their output as an argument: shapes, layouts and
// allocation are decided in one place, in Python, where the fake implementation decides them too.
#pragma once
#if defined(GK_BIND_CUDA) && !defined(GK_BIND_EMULATED) && !defined(USE_CUDA)
#define USE_CUDA 1
#endif
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "common/params.h"

#if defined(GK_BIND_EMULATED)
#define GK_OP_NAME(op) #op "_cuda"
#define GK_BACKEND "emulated CUDA"
#define GK_DISPATCH_KEY CPU
#elif defined(GK_BIND_CUDA)
#define GK_OP_NAME(op) #op "_cuda"
#define GK_BACKEND "CUDA"
#define GK_DISPATCH_KEY CUDA
#else
#define GK_OP_NAME(op) #op "_cpu"
#define GK_BACKEND "CPU"
#define GK_DISPATCH_KEY CPU
#endif

namespace gk {
namespace {

using torch::stable::Tensor;

inline DType dtype_of(const Tensor& t, const char* op, const char* name) {
  using torch::headeronly::ScalarType;
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::Double: return DType::f64;
    case ScalarType::Half: return DType::f16;
    case ScalarType::BFloat16: return DType::bf16;
    default: break;
  }
  STD_TORCH_CHECK(false, op, ": ", name, " must be float32, float64, float16 or bfloat16");
  return DType::f32;
}

inline View4 view4(const Tensor& t, const char* op, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4, op, ": ", name, " must have 4 dimensions, got ", t.dim());
  View4 v;
  v.data = const_cast<void*>(t.const_data_ptr());
  for (int i = 0; i < 4; ++i) v.size[i] = t.size(i), v.stride[i] = t.stride(i);
  return v;
}

// Makes the tensor's device current and gives its stream for the time of one launch.
class Stream {
 public:
#if defined(GK_BIND_CUDA) && !defined(GK_BIND_EMULATED)
  explicit Stream(const Tensor& t) : guard_(t.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream_));
  }
  void* get() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
#else
  explicit Stream(const Tensor&) {}
  void* get() const { return nullptr; }
#endif
};

inline void check_launch(const char* error, const char* op) {
  STD_TORCH_CHECK(error == nullptr, "gankern.", op, " (" GK_BACKEND "): ", error);
}

}  // namespace
}  // namespace gk
