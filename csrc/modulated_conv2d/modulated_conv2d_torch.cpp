// modulated_conv2d for PyTorch: on the CPU alone the sums of squares of a weight, the tail of a layer, and what layers make
// of their styles.
#include "common/torch_binding.h"
#include "modulated_conv2d/modulated_conv2d_params.h"

#if !defined(GK_BIND_CUDA)
namespace gk {
namespace {

// Elements that a task should have: some 10 us of work.
constexpr int64_t kGrain = 65536;

void squares(const Tensor& w, Tensor q, bool channels_last, std::optional<Tensor> turned) {
  ModulatedConv2dParams p{};
  p.dtype = dtype_of(w, "modulated_conv2d", "weight");
  STD_TORCH_CHECK(p.dtype == DType::f32 || p.dtype == DType::f64,
                  "modulated_conv2d: weight must be float32 or float64");
  STD_TORCH_CHECK(w.dim() == 4 && q.scalar_type() == w.scalar_type() && q.numel() == w.size(0) * w.size(1),
                  "modulated_conv2d: q must be [out_channels, in_channels] of weight's dtype");
  p.w = w.const_data_ptr();
  p.q = const_cast<void*>(q.const_data_ptr());
  p.outputs = w.size(0), p.inputs = w.size(1), p.taps = w.size(2) * w.size(3);
  p.channels_last = channels_last;
  if (turned.has_value()) {
    STD_TORCH_CHECK(!channels_last && turned->scalar_type() == w.scalar_type() && turned->numel() == w.numel(),
                    "modulated_conv2d: turned must be of weight's dtype and size, and weight contiguous");
    p.turned = const_cast<void*>(turned->const_data_ptr());
  }
  const int64_t row = p.inputs * p.taps;
  const auto run = GK_CPU_SELECT(modulated_conv2d_squares_cpu);
  torch::stable::parallel_for(0, p.outputs, row > kGrain ? 1 : kGrain / row,
                              [&](int64_t begin, int64_t end) { run(p, begin, end); });
}

using OptionalTensor = std::optional<Tensor>;
using torch::headeronly::ScalarType;

const float* floats(const OptionalTensor& t, int64_t numel, const char* name) {
  if (!t.has_value()) return nullptr;
  STD_TORCH_CHECK(t->scalar_type() == ScalarType::Float && t->numel() == numel && t->is_contiguous(),
                  "modulated_conv2d_tail: ", name, " must be dense float32 with ", numel, " elements, got ",
                  t->numel());
  return static_cast<const float*>(t->const_data_ptr());
}

// [N, C], the rows of which may be apart: slices of one product for many layers.
const float* factors(const OptionalTensor& t, int64_t samples, int64_t channels, int64_t* stride, const char* name) {
  if (!t.has_value()) return nullptr;
  STD_TORCH_CHECK(t->scalar_type() == ScalarType::Float && t->dim() == 2 && t->size(0) == samples &&
                      t->size(1) == channels && (t->stride(1) == 1 || channels == 1),
                  "modulated_conv2d_tail: ", name, " must be float32 [", samples, ", ", channels, "]");
  *stride = t->stride(0);
  return static_cast<const float*>(t->const_data_ptr());
}

void tail(const Tensor& z, bool phases, const OptionalTensor& taps, int64_t pad_y, int64_t pad_x,
          const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& b, const OptionalTensor& next,
          const OptionalTensor& rgb_weight, const OptionalTensor& rgb_b, const OptionalTensor& base, OptionalTensor y,
          OptionalTensor rgb, int64_t act, double alpha, double gain, double clamp, double rgb_clamp) {
  ModulatedConv2dTailParams p{};
  p.dtype = dtype_of(z, "modulated_conv2d_tail", "z");
  STD_TORCH_CHECK(p.dtype != DType::f64 && z.dim() == 4, "modulated_conv2d_tail: z must be [N, C, H, W], not float64");
  STD_TORCH_CHECK(act >= 0 && act <= static_cast<int64_t>(Act::swish), "modulated_conv2d_tail: unknown activation ",
                  act);
  STD_TORCH_CHECK(y.has_value() || rgb.has_value(), "modulated_conv2d_tail: no output");
  p.act = static_cast<Act>(act);
  p.alpha = alpha, p.gain = gain, p.clamp = clamp, p.rgb_clamp = rgb_clamp;
  const Tensor& like = y.has_value() ? *y : *rgb;
  p.samples = z.size(0), p.channels = z.size(1), p.z_height = z.size(2), p.z_width = z.size(3);
  p.height = like.size(2), p.width = like.size(3);
  p.pad_y = pad_y, p.pad_x = pad_x, p.phases = phases;
  if (phases) {
    STD_TORCH_CHECK(taps.has_value() && p.channels % 4 == 0,
                    "modulated_conv2d_tail: phases go with a filter and 4 C channels");
    p.channels /= 4, p.z_height *= 2, p.z_width *= 2;
  }
  p.taps = floats(taps, 2 * kTailTaps, "taps");
  STD_TORCH_CHECK(p.taps ? !rgb.has_value() : p.height == p.z_height && p.width == p.z_width,
                  "modulated_conv2d_tail: a filter goes with y alone; without one, outputs have the size of z");
  p.z = z.const_data_ptr();
  if (y.has_value()) {
    STD_TORCH_CHECK(y->scalar_type() == z.scalar_type() && y->size(0) == p.samples && y->size(1) == p.channels,
                    "modulated_conv2d_tail: y must have the samples, channels and dtype of z");
    p.y = const_cast<void*>(y->const_data_ptr());
    STD_TORCH_CHECK(!p.taps || p.y != p.z, "modulated_conv2d_tail: not in place with a filter");
  }
  p.scale = factors(scale, p.samples, p.channels, &p.scale_stride, "scale");
  p.next = factors(next, p.samples, p.channels, &p.next_stride, "next");
  const int64_t plane = p.height * p.width;
  p.noise_samples = noise.has_value() && plane > 0 && noise->numel() == plane ? 1 : p.samples;
  p.noise = floats(noise, p.noise_samples * plane, "noise");
  p.b = floats(b, p.channels, "b");
  if (rgb.has_value()) {
    STD_TORCH_CHECK(rgb_weight.has_value(), "modulated_conv2d_tail: rgb needs rgb_weight");
    p.rgb_weight = floats(rgb_weight, p.samples * kTailColours * p.channels, "rgb_weight");
    p.rgb_b = floats(rgb_b, kTailColours, "rgb_b");
    p.base = floats(base, p.samples * kTailColours * plane, "base");
    p.rgb = const_cast<float*>(floats(rgb, p.samples * kTailColours * plane, "rgb"));
  }
  if (p.samples * plane == 0) return;
  const int64_t row = p.width * p.channels;
  const auto run = GK_CPU_SELECT(modulated_conv2d_tail_cpu);
  torch::stable::parallel_for(0, p.samples * p.height, row > kGrain / 2 ? 1 : kGrain / 2 / row + 1,
                              [&](int64_t begin, int64_t end) { run(p, begin, end); });
}

// A flat float32 tensor.
const float* flat(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && t.is_contiguous(), "modulated_conv2d_factors: ", name,
                  " must be dense float32");
  return static_cast<const float*>(t.const_data_ptr());
}

// Whether rows of `size` numbers, `stride` apart, from `at` on, lie within `numel` numbers.
bool inside(int64_t at, int64_t rows, int64_t stride, int64_t size, int64_t numel) {
  if (at < 0 || rows < 0 || stride < 0 || size < 0 || at > numel) return false;
  if (rows == 0 || size == 0) return true;
  return size <= numel - at && (rows == 1 || stride <= (numel - at - size) / (rows - 1));
}

void style_factors(const Tensor& styles, const Tensor& weights, const Tensor& table, int64_t samples, Tensor out) {
  ModulatedConv2dFactorsParams p{};
  p.styles = flat(styles, "styles"), p.weights = flat(weights, "weights");
  p.out = const_cast<float*>(flat(out, "out"));
  STD_TORCH_CHECK(table.scalar_type() == ScalarType::Long && table.dim() == 2 && table.size(1) == kFactorsJobNumbers &&
                      table.is_contiguous(),
                  "modulated_conv2d_factors: table must be dense int64 [jobs, ", kFactorsJobNumbers, "]");
  STD_TORCH_CHECK(samples >= 0, "modulated_conv2d_factors: samples must not be negative, got ", samples);
  p.table = static_cast<const ModulatedConv2dFactorsJob*>(table.const_data_ptr());
  p.samples = samples, p.jobs = table.size(0);
  int64_t tasks = 0, numbers = 0;
  for (int64_t k = 0; k < p.jobs; ++k) {
    const ModulatedConv2dFactorsJob& job = p.table[k];
    STD_TORCH_CHECK(inside(job.styles, samples, job.stride, job.inputs, styles.numel()),
                    "modulated_conv2d_factors: the styles of job ", k, " are not within the tensor");
    STD_TORCH_CHECK(inside(job.weights, job.outputs, job.inputs, job.inputs, weights.numel()) &&
                        (job.norms < 0 || inside(job.norms, 1, 0, job.outputs, weights.numel())),
                    "modulated_conv2d_factors: the weights of job ", k, " are not within the tensor");
    // What was checked so far keeps outputs * inputs within an int64.
    const int64_t made = job.demodulated ? job.outputs : job.outputs * job.inputs;
    STD_TORCH_CHECK(inside(job.out, samples, made, made, out.numel()), "modulated_conv2d_factors: what job ", k,
                    " makes is not within out");
    tasks += (job.outputs + kFactorRows - 1) / kFactorRows;
    numbers += job.outputs * job.inputs * samples;
  }
  if (tasks == 0 || samples == 0) return;
  const auto run = GK_CPU_SELECT(modulated_conv2d_factors_cpu);
  torch::stable::parallel_for(0, tasks, kGrain / (numbers / tasks + 1) + 1,
                              [&](int64_t begin, int64_t end) { run(p, begin, end); });
}

}  // namespace
}  // namespace gk

STABLE_TORCH_LIBRARY_FRAGMENT(gankern_native, m) {
  m.def("modulated_conv2d_squares_cpu(Tensor w, Tensor(a!) q, bool channels_last, Tensor(b!)? turned=None) -> ()");
  m.def("modulated_conv2d_factors_cpu(Tensor styles, Tensor weights, Tensor table, int samples, Tensor(a!) out) -> ()");
  m.def(
      "modulated_conv2d_tail_cpu(Tensor z, bool phases, Tensor? taps, int pad_y, int pad_x, Tensor? scale, Tensor? "
      "noise, Tensor? b, Tensor? next, Tensor? rgb_weight, Tensor? rgb_b, Tensor? base, Tensor(a!)? y, Tensor(b!)? "
      "rgb, int act, "
      "float alpha, float gain, float clamp, float rgb_clamp) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(gankern_native, CPU, m) {
  m.impl("modulated_conv2d_squares_cpu", TORCH_BOX(&gk::squares));
  m.impl("modulated_conv2d_factors_cpu", TORCH_BOX(&gk::style_factors));
  m.impl("modulated_conv2d_tail_cpu", TORCH_BOX(&gk::tail));
}
#endif
