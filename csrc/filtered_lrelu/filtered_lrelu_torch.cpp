// filtered_lrelu for PyTorch: checks what the kernels rely on, fills the parameters, runs the kernel on y and mask_out.
#include "common/torch_binding.h"
#if !defined(GK_BIND_CUDA)
#include "common/cpu_memory.h"
#endif
#include "filtered_lrelu/filtered_lrelu_params.h"

namespace gk {
namespace {

using OptionalTensor = std::optional<Tensor>;

// Taps and bias are of the type that the kernels compute in.
const void* numbers(const OptionalTensor& t, DType dtype, int64_t least_dim, int64_t most_dim, const char* name) {
  if (!t.has_value()) return nullptr;
  const auto want = dtype == DType::f64 ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float;
  STD_TORCH_CHECK(t->scalar_type() == want && t->is_contiguous() && t->dim() >= least_dim && t->dim() <= most_dim,
                  "filtered_lrelu: ", name, " must be a contiguous tensor of the accumulation type with ", most_dim,
                  most_dim > least_dim ? " or fewer" : "", " dimensions");
  return t->const_data_ptr();
}

void filter(const OptionalTensor& f, DType dtype, const char* name, const void*& taps, bool& separable, int64_t& h,
            int64_t& w) {
  taps = numbers(f, dtype, 1, 2, name);
  separable = f.has_value() && f->dim() == 1;
  h = f.has_value() ? f->size(0) : 1, w = f.has_value() ? f->size(-1) : 1;
  STD_TORCH_CHECK(h > 0 && w > 0, "filtered_lrelu: ", name, " must have taps");
}

uint8_t* mask_bytes_of(const OptionalTensor& mask, const FilteredLreluParams& p, const char* name) {
  if (!mask.has_value()) return nullptr;
  const int64_t c = p.y.size[1], last = p.channels_last ? c : p.mid_w;
  const int64_t want[4] = {p.y.size[0], p.channels_last ? p.mid_h : c, p.channels_last ? p.mid_w : p.mid_h,
                           (last + 3) / 4};
  bool fits = mask->scalar_type() == torch::headeronly::ScalarType::Byte && mask->is_contiguous() && mask->dim() == 4;
  for (int i = 0; fits && i < 4; ++i) fits = mask->size(i) == want[i];
  STD_TORCH_CHECK(fits, "filtered_lrelu: ", name, " must be contiguous uint8 of [", want[0], ", ", want[1], ", ",
                  want[2], ", ", want[3], "]");
  return static_cast<uint8_t*>(const_cast<void*>(mask->const_data_ptr()));
}

// Strides along an axis of one number mean nothing.
bool dense(const View4& v, int axis) { return v.stride[axis] == 1 || v.size[axis] <= 1; }

// [N, C] numbers of the accumulation type.
const void* factors(const OptionalTensor& t, const FilteredLreluParams& p, const char* name) {
  const void* data = numbers(t, p.dtype, 2, 2, name);
  STD_TORCH_CHECK(!t.has_value() || (t->size(0) == p.x.size[0] && t->size(1) == p.x.size[1]), "filtered_lrelu: ", name,
                  " must be [", p.x.size[0], ", ", p.x.size[1], "]");
  return data;
}

void run_filtered_lrelu(const Tensor& x, const OptionalTensor& fu, const OptionalTensor& fd, const OptionalTensor& b,
                        const OptionalTensor& factor_in, const OptionalTensor& factor_out,
                        const OptionalTensor& mask_in, OptionalTensor mask_out, Tensor y, bool channels_last,
                        int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y, int64_t start_x, int64_t start_y,
                        int64_t offset_x, int64_t offset_y, int64_t mid_h, int64_t mid_w, bool flip, double scale,
                        double gain, double negative_slope, double clamp) {
  FilteredLreluParams p{};
  p.dtype = dtype_of(x, "filtered_lrelu", "x");
  STD_TORCH_CHECK(y.scalar_type() == x.scalar_type(), "filtered_lrelu: y must have x's dtype");
  p.x = view4(x, "filtered_lrelu", "x");
  p.y = view4(y, "filtered_lrelu", "y");
  STD_TORCH_CHECK(p.x.size[0] == p.y.size[0] && p.x.size[1] == p.y.size[1],
                  "filtered_lrelu: x and y must have the same samples and channels");
  const int axis = channels_last ? 1 : 3;
  STD_TORCH_CHECK(dense(p.x, axis) && dense(p.y, axis), "filtered_lrelu: x and y must both have contiguous ",
                  channels_last ? "channels" : "rows");
  p.channels_last = channels_last;
  STD_TORCH_CHECK(up_x > 0 && up_y > 0 && down_x > 0 && down_y > 0, "filtered_lrelu: up and down must be positive");
  STD_TORCH_CHECK(mid_h >= 0 && mid_w >= 0, "filtered_lrelu: the intermediate image must not have a negative size");
  filter(fu, p.dtype, "fu", p.up_taps, p.up_separable, p.up_h, p.up_w);
  filter(fd, p.dtype, "fd", p.down_taps, p.down_separable, p.down_h, p.down_w);
  p.up_x = up_x, p.up_y = up_y, p.down_x = down_x, p.down_y = down_y;
  p.start_x = start_x, p.start_y = start_y, p.offset_x = offset_x, p.offset_y = offset_y;
  p.mid_h = mid_h, p.mid_w = mid_w;
  p.flip = flip;
  p.bias = numbers(b, p.dtype, 1, 1, "b");
  STD_TORCH_CHECK(!b.has_value() || b->numel() == p.x.size[1], "filtered_lrelu: b must have one number per channel, ",
                  p.x.size[1]);
  p.factor_in = factors(factor_in, p, "scale"), p.factor_out = factors(factor_out, p, "next");
  STD_TORCH_CHECK(!mask_in.has_value() || !mask_out.has_value(), "filtered_lrelu: a mask is read or written, not both");
  p.mask_in = mask_bytes_of(mask_in, p, "mask_in");
  p.mask_out = mask_bytes_of(mask_out, p, "mask_out");
  p.scale = scale, p.gain = gain, p.negative_slope = negative_slope, p.clamp = clamp;
  if (y.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(x);
  check_launch(launch_filtered_lrelu(p, stream.get()), "filtered_lrelu");
#else
  if (y.is_contiguous() || p.y.stride[1] == 1) advise_huge_pages(p.y.data, y.numel() * y.element_size());
  if (p.mask_out) advise_huge_pages(p.mask_out, mask_out->numel());
  const auto run = GK_CPU_SELECT(filtered_lrelu_cpu);
  torch::stable::parallel_for(0, GK_CPU_SELECT(filtered_lrelu_cpu_tasks)(p), 1,
                              [&](int64_t begin, int64_t end) { run(p, begin, end); });
#endif
}

void filtered_lrelu(const Tensor& x, const OptionalTensor& fu, const OptionalTensor& fd, const OptionalTensor& b,
                    const OptionalTensor& mask_in, OptionalTensor mask_out, Tensor y, bool channels_last, int64_t up_x,
                    int64_t up_y, int64_t down_x, int64_t down_y, int64_t start_x, int64_t start_y, int64_t offset_x,
                    int64_t offset_y, int64_t mid_h, int64_t mid_w, bool flip, double scale, double gain,
                    double negative_slope, double clamp) {
  run_filtered_lrelu(x, fu, fd, b, std::nullopt, std::nullopt, mask_in, mask_out, y, channels_last, up_x, up_y, down_x,
                     down_y, start_x, start_y, offset_x, offset_y, mid_h, mid_w, flip, scale, gain, negative_slope,
                     clamp);
}

#if !defined(GK_BIND_CUDA)
void styled(const Tensor& x, const OptionalTensor& fu, const OptionalTensor& fd, const OptionalTensor& b,
            const OptionalTensor& factor_in, const OptionalTensor& factor_out, Tensor y, bool channels_last,
            int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y, int64_t start_x, int64_t start_y,
            int64_t offset_x, int64_t offset_y, int64_t mid_h, int64_t mid_w, bool flip, double scale, double gain,
            double negative_slope, double clamp) {
  run_filtered_lrelu(x, fu, fd, b, factor_in, factor_out, std::nullopt, std::nullopt, y, channels_last, up_x, up_y,
                     down_x, down_y, start_x, start_y, offset_x, offset_y, mid_h, mid_w, flip, scale, gain,
                     negative_slope, clamp);
}
#endif

}  // namespace
}  // namespace gk

STABLE_TORCH_LIBRARY_FRAGMENT(gankern_native, m) {
  m.def(GK_OP_NAME(filtered_lrelu)
        "(Tensor x, Tensor? fu, Tensor? fd, Tensor? b, Tensor? mask_in, Tensor(a!)? mask_out, Tensor(b!) y, "
        "bool channels_last, int up_x, int up_y, int down_x, int down_y, int start_x, int start_y, int offset_x, "
        "int offset_y, int mid_h, int mid_w, bool flip, float scale, float gain, float negative_slope, float clamp)"
        " -> ()");
#if !defined(GK_BIND_CUDA)
  m.def(
      "filtered_lrelu_styled_cpu(Tensor x, Tensor? fu, Tensor? fd, Tensor? b, Tensor? scale, Tensor? next, Tensor(a!) "
      "y, "
      "bool channels_last, int up_x, int up_y, int down_x, int down_y, int start_x, int start_y, int offset_x, "
      "int offset_y, int mid_h, int mid_w, bool flip, float gain_up, float gain, float negative_slope, float clamp)"
      " -> ()");
#endif
}
STABLE_TORCH_LIBRARY_IMPL(gankern_native, GK_DISPATCH_KEY, m) {
  m.impl(GK_OP_NAME(filtered_lrelu), TORCH_BOX(&gk::filtered_lrelu));
#if !defined(GK_BIND_CUDA)
  m.impl("filtered_lrelu_styled_cpu", TORCH_BOX(&gk::styled));
#endif
}
