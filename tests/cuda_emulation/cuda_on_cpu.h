// Runs CUDA C++ kernels on the CPU, for tests on machines without a GPU. Every CUDA thread is a fiber;
// blocks run one after another (or over a few OS threads). harness.py compiles the project's kernels with it:
//   g++ -std=c++17 -x c++ -DGK_CUDA_ON_CPU -include cuda_on_cpu.h -I<cuda include> -Icsrc -fPIC -fno-gnu-unique -c k.cu
// Needs only the CUDA headers (types, half, bfloat16). See README.md for what is and is not emulated.
#pragma once
#ifndef GK_CUDA_ON_CPU
#define GK_CUDA_ON_CPU 1
#endif
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <link.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define GK_ASAN(x) x
#else
#define GK_ASAN(x)
#endif
#ifndef GK_EMU_STACK  // bytes of stack for each CUDA thread
#ifdef __SANITIZE_ADDRESS__
#define GK_EMU_STACK (512 << 10)
#else
#define GK_EMU_STACK (128 << 10)
#endif
#endif

#pragma GCC visibility push(hidden)
namespace gk_emu {

// ---- switching stacks --------------------------------------------------------------------------
#if defined(__x86_64__) && !defined(GK_EMU_UCONTEXT)
using Ctx = void*;  // the saved stack pointer; callee-saved registers lie on that stack
__attribute__((naked, noipa, no_sanitize("address", "undefined"))) inline void swap_ctx(Ctx*, Ctx*) {
  asm("pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\tmovq (%rsi), %rsp\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret");
}
inline void make_ctx(Ctx* c, char* stack, size_t size, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + size);  // 16-byte aligned
  *--top = nullptr;                                     // where entry's caller would be
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  *c = top;
}
#else
using Ctx = ucontext_t;
inline void swap_ctx(Ctx* from, Ctx* to) { swapcontext(from, to); }
inline void make_ctx(Ctx* c, char* stack, size_t size, void (*entry)()) {
  getcontext(c);
  c->uc_stack.ss_sp = stack, c->uc_stack.ss_size = size, c->uc_link = nullptr;
  makecontext(c, entry, 0);
}
#endif

// ---- state -------------------------------------------------------------------------------------
enum State { NEW, READY, AT_BARRIER, AT_WARP, DONE };
struct Site {
  const char *op, *file;
  int line;
};
struct Worker;
struct Copy {
  void* to;
  const void* from;
  int bytes, valid;
  unsigned group;
};  // a cp.async under way
struct Fiber {
  Ctx ctx;
  char* stack;
  void* fake;  // the sanitizer's
  Worker* w;
  State state;
  unsigned flat, mask, pred;  // flat: thread number in the block; mask, pred: of the collective waited at
  int src;                    // lane to read from
  Site site;
  uint3 tid;
  unsigned char val[16], res[16];
  std::vector<Copy> copies;
  unsigned groups = 0;  // of copies committed so far
};
struct Launch {
  dim3 grid, block;
  size_t shared;
  const char* name;
  void (*call)(void*), *args;
  std::atomic<unsigned long long> next{0};
};
struct Guarded {
  const void* key;
  char* p;
  size_t n;
};               // one piece of shared memory with guards
struct Worker {  // one OS thread's emulated multiprocessor
  Ctx ctx;
  void* fake = nullptr;
  const void* bottom = nullptr;  // of the OS thread's own stack, for the sanitizer
  size_t size = 0, tls_size = 0;
  char* tls = nullptr;
  const Launch* L = nullptr;
  uint3 bid{};
  bool failed = false;
  uint64_t rng = 0;
  std::vector<Fiber> f;
  std::vector<char*> stacks;
  std::vector<unsigned> run;
  std::vector<Guarded> shared;
};
struct Global {
  std::mutex mu;
  std::string message;
  cudaError_t error = cudaSuccess;
  int threads = 1, allow_exited = 0;
  unsigned long long seed = 0;
  std::vector<std::unique_ptr<Worker>> idle;
  std::map<const void*, size_t> max_dynamic;
};
inline Global& global() {
  static Global* g = new Global;
  return *g;
}
inline __thread Fiber* cur = nullptr;  // must stay the emulation's only thread-local: see find_tls

inline void set_error(cudaError_t e, const char* fmt, ...) {
  char text[1024];
  va_list ap;
  va_start(ap, fmt), vsnprintf(text, sizeof text, fmt, ap), va_end(ap);
  std::lock_guard<std::mutex> lock(global().mu);
  if (global().error == cudaSuccess) global().error = e, global().message = text;
}
inline std::string where(const Fiber& f) {
  char t[256];
  snprintf(t, sizeof t, "kernel %s block (%u,%u,%u) thread (%u,%u,%u)", f.w->L->name, f.w->bid.x, f.w->bid.y,
           f.w->bid.z, f.tid.x, f.tid.y, f.tid.z);
  return t;
}
inline std::string doing(const Fiber& f) {
  if (f.state == DONE) return "has exited";
  return std::string("waits at ") + f.site.op + " (" + f.site.file + ":" + std::to_string(f.site.line) + ")";
}

// ---- fibers ------------------------------------------------------------------------------------
inline void to_scheduler(Fiber& f) {
  GK_ASAN(__sanitizer_start_switch_fiber(f.state == DONE ? nullptr : &f.fake, f.w->bottom, f.w->size));
  swap_ctx(&f.ctx, &f.w->ctx);
  GK_ASAN(__sanitizer_finish_switch_fiber(f.fake, nullptr, nullptr));
}
__attribute__((noinline, no_sanitize("address"))) inline void fiber_main() {
  Fiber& f = *cur;
  GK_ASAN(__sanitizer_finish_switch_fiber(nullptr, &f.w->bottom, &f.w->size));
  f.w->L->call(f.w->L->args);
  f.state = DONE;
  to_scheduler(f);
  abort();
}
inline void resume(Worker& w, Fiber& f) {
  if (f.state == NEW) {
    if (w.stacks.empty()) {
      char* p = static_cast<char*>(mmap(nullptr, GK_EMU_STACK + 4096, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      if (p == MAP_FAILED) abort();
      mprotect(p, 4096, PROT_NONE);  // a kernel that overflows its stack faults here
      w.stacks.push_back(p + 4096);
    }
    f.stack = w.stacks.back(), w.stacks.pop_back();  // last in, first out: one hot stack without barriers
    make_ctx(&f.ctx, f.stack, GK_EMU_STACK - f.flat % 16 * 256, fiber_main);
    f.state = READY;
  }
  cur = &f;
  GK_ASAN(__sanitizer_start_switch_fiber(&w.fake, f.stack, GK_EMU_STACK));
  swap_ctx(&w.ctx, &f.ctx);
  GK_ASAN(__sanitizer_finish_switch_fiber(w.fake, nullptr, nullptr));
  if (f.state == DONE) w.stacks.push_back(f.stack), f.stack = nullptr;
}
[[noreturn]] inline void fail_thread(const std::string& what) {
  Fiber& f = *cur;
  set_error(cudaErrorLaunchFailure, "%s: %s", where(f).c_str(), what.c_str());
  f.w->failed = true;
  for (;;) to_scheduler(f);
}

// ---- shared memory: filled with NaN (0xff) for each block; guards before and after ----------------
constexpr size_t kGuard = 1024;
inline char* shared_alloc(Worker& w, const void* key, size_t n) {
  for (auto& g : w.shared)
    if (g.key == key) return g.p;
  char* raw = static_cast<char*>(aligned_alloc(128, kGuard + (n + 127) / 128 * 128 + kGuard));
  char* p = raw + kGuard;
  memset(raw, 0xA5, kGuard), memset(p, 0xFF, n), memset(p + n, 0xA5, kGuard);
  GK_ASAN(__asan_poison_memory_region(raw, kGuard));
  GK_ASAN(__asan_poison_memory_region(p + n, kGuard));
  w.shared.push_back({key, p, n});
  return p;
}
inline void shared_free(Worker& w) {
  for (auto& g : w.shared) {
    GK_ASAN(__asan_unpoison_memory_region(g.p - kGuard, g.n + 2 * kGuard));
    long bad = -1;
    for (size_t i = 0; i < kGuard; ++i)
      if (g.p[-1 - long(i)] != char(0xA5) || g.p[g.n + i] != char(0xA5)) {
        bad = long(i);
        break;
      }
    if (bad >= 0 && !w.failed) {
      w.failed = true;
      set_error(cudaErrorLaunchFailure,
                "kernel %s block (%u,%u,%u): write outside shared memory, %ld bytes "
                "before or after a piece of %zu bytes",
                w.L->name, w.bid.x, w.bid.y, w.bid.z, bad, g.n);
    }
    free(g.p - kGuard);
  }
  w.shared.clear();
}
// Plain `__shared__` variables are thread_local; they lie in this module's TLS segment, next to `cur`.
inline int find_tls(dl_phdr_info* info, size_t size, void* data) {
  Worker& w = *static_cast<Worker*>(data);
  char *t = size >= sizeof *info ? static_cast<char*>(info->dlpi_tls_data) : nullptr,
       *c = reinterpret_cast<char*>(&cur);
  for (int i = 0; t && i < info->dlpi_phnum; ++i)
    if (info->dlpi_phdr[i].p_type == PT_TLS && c >= t && c < t + info->dlpi_phdr[i].p_memsz)
      return w.tls = t, w.tls_size = info->dlpi_phdr[i].p_memsz, 1;
  return 0;
}

// ---- scheduling one block ------------------------------------------------------------------------
inline uint64_t random64(uint64_t& s) {  // splitmix64
  uint64_t z = (s += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull, z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
inline bool release_warps(Worker& w) {  // complete every warp collective whose lanes have all arrived
  bool any = false;
  for (unsigned base = 0, n = unsigned(w.f.size()); base < n; base += 32) {
    Fiber* f = &w.f[base];
    unsigned exist = n - base >= 32 ? ~0u : (1u << (n - base)) - 1, todo = 0;
    for (unsigned m = exist, l; m; m &= m - 1) l = __builtin_ctz(m), todo |= unsigned(f[l].state == AT_WARP) << l;
    while (todo) {
      const Fiber& a = f[__builtin_ctz(todo)];
      unsigned need = (a.mask ? a.mask : todo) & exist, got = 0, ballot = 0;  // mask 0: __activemask, whoever is here
      for (unsigned m = need; m; m &= m - 1) {
        unsigned l = __builtin_ctz(m), bit = 1u << l;
        if (f[l].state == AT_WARP && f[l].mask == a.mask && !strcmp(f[l].site.op, a.site.op) &&
            (f[l].site.line == a.site.line || !strcmp(a.site.op, "__syncwarp")))
          got |= bit, ballot |= f[l].pred << l;
        else if (!a.mask || (f[l].state == DONE && global().allow_exited))
          need &= ~bit;
      }
      todo &= ~got;
      if (got != need) continue;
      any = true;
      for (unsigned m = got; m; m &= m - 1) {
        Fiber& x = f[__builtin_ctz(m)];
        if (x.src < 0)
          memcpy(x.res, &ballot, 4);
        else if (got >> x.src & 1)
          memcpy(x.res, f[x.src].val, 16);
        else
          memset(x.res, 0xFF, 16);  // reading a lane that takes no part is undefined: NaN
      }
      for (unsigned m = got; m; m &= m - 1) f[__builtin_ctz(m)].state = READY;
    }
  }
  return any;
}
inline bool release_barrier(Worker& w) {
  const Fiber* a = nullptr;
  unsigned count = 0;
  for (auto& f : w.f)
    if (f.state == AT_BARRIER && !a) a = &f;
  for (auto& f : w.f) {
    if (f.state == DONE && global().allow_exited) continue;
    if (!a || f.state != AT_BARRIER || f.site.line != a->site.line || strcmp(f.site.file, a->site.file)) return false;
    count += f.pred;
  }
  if (a)
    for (auto& f : w.f)
      if (f.state == AT_BARRIER) f.state = READY, memcpy(f.res, &count, 4);
  return a;
}
inline void report_stuck(Worker& w) {
  const Fiber *a = nullptr, *b = nullptr;
  for (auto& f : w.f)
    if (!a && f.state != DONE) a = &f;
  for (auto& f : w.f)
    if (!b && &f != a && (a->state == AT_BARRIER || (f.flat / 32 == a->flat / 32 && a->mask >> (f.flat & 31) & 1)) &&
        (f.state != a->state || f.site.line != a->site.line || f.site.op != a->site.op || f.mask != a->mask))
      b = &f;
  char other[256] = "no other thread explains it";
  if (b) snprintf(other, sizeof other, "thread (%u,%u,%u) %s", b->tid.x, b->tid.y, b->tid.z, doing(*b).c_str());
  set_error(cudaErrorLaunchFailure, "%s: divergent barrier: it %s but %s", where(*a).c_str(), doing(*a).c_str(), other);
  w.failed = true;
}
inline void run_block(Worker& w, const Launch& L, unsigned long long id) {
  const unsigned n = L.block.x * L.block.y * L.block.z;
  const auto seed = global().seed;
  w.L = &L, w.failed = false, w.rng = seed * 0x9e3779b97f4a7c15ull + id;
  w.bid = uint3{unsigned(id % L.grid.x), unsigned(id / L.grid.x % L.grid.y), unsigned(id / L.grid.x / L.grid.y)};
  memset(w.tls, 0xFF, w.tls_size);  // also clobbers `cur`, which resume() sets
  shared_alloc(w, &L, L.shared);
  w.f.resize(n);
  for (unsigned i = 0; i < n; ++i) {
    Fiber& f = w.f[i];
    f.w = &w, f.flat = i, f.state = NEW, f.stack = nullptr, f.fake = nullptr;
    f.copies.clear(), f.groups = 0;
    f.tid = uint3{i % L.block.x, i / L.block.x % L.block.y, i / L.block.x / L.block.y};
  }
  for (unsigned live = n; live && !w.failed;) {
    w.run.clear();
    // A random order also holds some warps back for a round, so that warps drift apart.
    for (int retry = 0; w.run.empty() && retry < 2; ++retry)
      for (unsigned i = 0, hold = 0; i < n; ++i) {
        if (i % 32 == 0) hold = seed > 1 && !retry && random64(w.rng) % 3 == 0;
        if (!hold && w.f[i].state <= READY) w.run.push_back(i);
      }
    if (seed == 1) std::reverse(w.run.begin(), w.run.end());
    if (seed > 1)
      for (size_t i = w.run.size(); i > 1; --i) std::swap(w.run[i - 1], w.run[random64(w.rng) % i]);
    if (w.run.empty() && !release_barrier(w)) {
      report_stuck(w);
      break;
    }
    for (unsigned i : w.run) {
      resume(w, w.f[i]);
      if (w.failed) break;
      live -= w.f[i].state == DONE;
    }
    if (!w.failed) release_warps(w);
  }
  for (auto& f : w.f)  // threads given up after an error
    if (f.stack) {
      GK_ASAN(__asan_unpoison_memory_region(f.stack, GK_EMU_STACK));
      w.stacks.push_back(f.stack);
    }
  shared_free(w);
  cur = nullptr;
}
inline void run_worker(Launch& L) {
  Global& g = global();
  std::unique_ptr<Worker> w;
  {
    std::lock_guard<std::mutex> lock(g.mu);
    if (!g.idle.empty()) w = std::move(g.idle.back()), g.idle.pop_back();
  }
  if (!w) w.reset(new Worker);
  cur = nullptr;  // also makes this OS thread's TLS exist
  w->tls = reinterpret_cast<char*>(&cur), w->tls_size = sizeof cur;
  dl_iterate_phdr(find_tls, w.get());
  const unsigned long long n = 1ull * L.grid.x * L.grid.y * L.grid.z;
  for (unsigned long long i; (i = L.next++) < n;) {
    // A step coprime to n visits every block once, in another order for each seed.
    unsigned long long id = g.seed == 1 ? n - 1 - i : i;
    if (g.seed > 1) id = (i * (n % 7919 ? 7919 : 1) + g.seed) % n;
    run_block(*w, L, id);
    if (w->failed) L.next = n;
  }
  std::lock_guard<std::mutex> lock(g.mu);
  g.idle.push_back(std::move(w));
}
GK_ASAN(inline void on_asan_report(const char*) {
  if (cur) fprintf(stderr, "GK: memory error in %s\n", where(*cur).c_str());
})
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t, A&&... a) {
  struct Packed {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> args;
  } packed{kernel, {static_cast<P>(a)...}};
  const size_t threads = 1ull * block.x * block.y * block.z;
  Global& g = global();
  if (g.error != cudaSuccess) return;  // as on a GPU, an error sticks until it is read
  auto attr = g.max_dynamic.find(reinterpret_cast<const void*>(kernel));
  const size_t limit = attr == g.max_dynamic.end() ? 48 << 10 : attr->second;
  if (!threads || threads > 1024 || block.z > 64 || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu ||
      grid.y > 65535 || grid.z > 65535 || shared > limit)
    return set_error(cudaErrorInvalidConfiguration,
                     "kernel %s: bad launch: grid (%u,%u,%u) block (%u,%u,%u) shared %zu "
                     "of at most %zu",
                     name, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared, limit);
  Launch L;
  L.grid = grid, L.block = block, L.shared = shared, L.name = name, L.args = &packed;
  L.call = [](void* p) {
    auto& k = *static_cast<Packed*>(p);
    std::apply(k.kernel, k.args);
  };
  GK_ASAN(__asan_set_error_report_callback(on_asan_report));
  std::vector<std::thread> pool;
  for (int i = 1; i < g.threads; ++i) pool.emplace_back([&L] { run_worker(L); });
  run_worker(L);
  for (auto& t : pool) t.join();
}

// ---- what kernels call ---------------------------------------------------------------------------
inline unsigned barrier(Site site, unsigned pred) {
  Fiber& f = *cur;
  f.state = AT_BARRIER, f.site = site, f.pred = pred;
  to_scheduler(f);
  unsigned count;
  memcpy(&count, f.res, 4);
  return count;
}
inline Fiber& collective(Site site, unsigned mask, unsigned pred, int src) {
  Fiber& f = *cur;
  f.site = site, f.mask = mask, f.pred = pred, f.src = src;
  if (mask && !(mask >> (f.flat & 31) & 1)) fail_thread(std::string(site.op) + ": mask leaves out the calling lane");
  f.state = AT_WARP;
  to_scheduler(f);
  return f;
}
template <class T>
T shuffle(Site site, unsigned mask, T v, int src) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 16, "type cannot be shuffled");
  memcpy(cur->val, &v, sizeof v);
  memcpy(&v, collective(site, mask, 0, src).res, sizeof v);
  return v;
}
inline unsigned ballot(Site site, unsigned mask, bool p) {
  unsigned r;
  memcpy(&r, collective(site, mask, p, -1).res, 4);
  return r;
}
inline int lane() { return int(cur->flat & 31); }
template <class T, class F>
T atomic(T* p, F f) {
  T old, now;
  __atomic_load(p, &old, __ATOMIC_SEQ_CST);
  do now = f(old);
  while (!__atomic_compare_exchange(p, &old, &now, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
  return old;
}

// ---- cp.async (csrc/common/cuda_async.cuh) ---------------------------------------------------------------
// The hardware may copy at any time between issue and wait. Order 0 copies at the wait (reading too early shows),
// order 1 at once (overwriting what others still read shows), the others now and then.
inline void copy_now(const Copy& c) {
  if (c.valid) memcpy(c.to, c.from, size_t(c.valid));
  memset(static_cast<char*>(c.to) + c.valid, 0, size_t(c.bytes - c.valid));
}
inline void async_copy(void* to, const void* from, int bytes, int valid) {
  Fiber& f = *cur;
  if (valid < 0 || valid > bytes || reinterpret_cast<uintptr_t>(to) % unsigned(bytes) ||
      (valid && reinterpret_cast<uintptr_t>(from) % unsigned(bytes)))
    fail_thread("cp.async: misaligned address, or more valid bytes than are copied");
  const Copy c{to, from, bytes, valid, f.groups};
  const auto seed = global().seed;
  if (seed == 1 || (seed > 1 && random64(f.w->rng) % 2))
    copy_now(c);
  else
    f.copies.push_back(c);
}
inline void async_commit() { ++cur->groups; }
inline void async_wait(unsigned pending) {
  Fiber& f = *cur;
  size_t kept = 0;
  for (const Copy& c : f.copies)
    if (c.group + pending < f.groups)
      copy_now(c);
    else
      f.copies[kept++] = c;
  f.copies.resize(kept);
}

// ---- the few runtime calls -------------------------------------------------------------------------
inline cudaError_t last_error(bool clear) {
  cudaError_t e = global().error;
  if (clear) global().error = cudaSuccess;
  return e;
}
inline const char* error_string(cudaError_t e) { return e == cudaSuccess ? "no error" : global().message.c_str(); }
template <class F>
cudaError_t func_attribute(F* kernel, cudaFuncAttribute a, int v) {
  if (a == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (v > 227 << 10) return cudaErrorInvalidValue;
    global().max_dynamic[reinterpret_cast<const void*>(kernel)] = size_t(v);
  }
  return cudaSuccess;
}
inline cudaError_t set_bytes(void* p, int v, size_t n, cudaStream_t = nullptr) {
  memset(p, v, n);
  return cudaSuccess;
}
inline cudaError_t copy_bytes(void* d, const void* s, size_t n, cudaMemcpyKind, cudaStream_t = nullptr) {
  memmove(d, s, n);
  return cudaSuccess;
}
template <class T>
cudaError_t allocate(T** p, size_t n) {
  *p = static_cast<T*>(malloc(n));
  memset(*p, 0xFF, n);
  return cudaSuccess;
}
}  // namespace gk_emu
#pragma GCC visibility pop

// Called from the test: OS threads; order (0 forward, 1 reversed, others a random seed); 1 to let exited
// threads count as arrived at barriers (the hardware does; by default it is an error).
extern "C" inline __attribute__((used, visibility("default"))) void gk_emu_config(int threads, unsigned long long seed,
                                                                                  int allow_exited) {
  auto& g = gk_emu::global();
  g.threads = threads, g.seed = seed, g.allow_exited = allow_exited;
}
extern "C" inline __attribute__((used, visibility("default"))) const char* gk_emu_message() {
  return gk_emu::global().message.c_str();
}

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static thread_local
#define GK_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  gk_emu::launch(#kernel, kernel, grid, block, shared_bytes, stream, ##__VA_ARGS__)
#define GK_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(gk_emu::cur->w->shared[0].p)
#define GK_SHARED(type, name, ...)                 \
  typedef type name##_gk_type __VA_ARGS__;         \
  static char name##_gk_key;                       \
  auto& name = *reinterpret_cast<name##_gk_type*>( \
      gk_emu::shared_alloc(*gk_emu::cur->w, &name##_gk_key, sizeof(name##_gk_type)))
#define threadIdx (gk_emu::cur->tid)
#define blockIdx (gk_emu::cur->w->bid)
#define blockDim (gk_emu::cur->w->L->block)
#define gridDim (gk_emu::cur->w->L->grid)
#define cudaGetLastError() gk_emu::last_error(true)
#define cudaPeekAtLastError() gk_emu::last_error(false)
#define cudaDeviceSynchronize() gk_emu::last_error(false)
#define cudaStreamSynchronize(stream) gk_emu::last_error(false)
#define cudaGetErrorString(e) gk_emu::error_string(e)
#define cudaFuncSetAttribute(...) gk_emu::func_attribute(__VA_ARGS__)
#define cudaMemsetAsync(...) gk_emu::set_bytes(__VA_ARGS__)
#define cudaMemcpyAsync(...) gk_emu::copy_bytes(__VA_ARGS__)
#define cudaMemcpy(...) gk_emu::copy_bytes(__VA_ARGS__)
#define cudaMalloc(...) gk_emu::allocate(__VA_ARGS__)
#define cudaFree(p) (free(p), cudaSuccess)
#define GK_SITE(op) \
  gk_emu::Site { op, file, line }
#define GK_AT int line = __builtin_LINE(), const char *file = __builtin_FILE()
static constexpr int warpSize = 32;

inline void __syncthreads(GK_AT) { gk_emu::barrier(GK_SITE("__syncthreads"), 0); }
inline int __syncthreads_count(int p, GK_AT) { return int(gk_emu::barrier(GK_SITE("__syncthreads_count"), p != 0)); }
inline int __syncthreads_or(int p, GK_AT) { return gk_emu::barrier(GK_SITE("__syncthreads_or"), p != 0) != 0; }
inline int __syncthreads_and(int p, GK_AT) { return gk_emu::barrier(GK_SITE("__syncthreads_and"), p == 0) == 0; }
inline void __syncwarp(unsigned mask = ~0u, GK_AT) { gk_emu::collective(GK_SITE("__syncwarp"), mask, 0, -1); }
inline unsigned __ballot_sync(unsigned mask, int p, GK_AT) { return gk_emu::ballot(GK_SITE("__ballot_sync"), mask, p); }
inline int __any_sync(unsigned mask, int p, GK_AT) { return gk_emu::ballot(GK_SITE("__any_sync"), mask, p) != 0; }
inline int __all_sync(unsigned mask, int p, GK_AT) { return gk_emu::ballot(GK_SITE("__all_sync"), mask, !p) == 0; }
inline unsigned __activemask(GK_AT) {
  return gk_emu::ballot(GK_SITE("__activemask"), 0, true);
}  // the lanes that come here together
template <class T>
T __shfl_sync(unsigned mask, T v, int src, int width = 32, GK_AT) {
  return gk_emu::shuffle(GK_SITE("__shfl_sync"), mask, v, (gk_emu::lane() & ~(width - 1)) | (src & (width - 1)));
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32, GK_AT) {
  int l = gk_emu::lane(), s = l - int(d & 31);
  return gk_emu::shuffle(GK_SITE("__shfl_up_sync"), mask, v, s < (l & ~(width - 1)) ? l : s);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32, GK_AT) {
  int l = gk_emu::lane(), s = l + int(d & 31);
  return gk_emu::shuffle(GK_SITE("__shfl_down_sync"), mask, v, s > (l | (width - 1)) ? l : s);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, GK_AT) {
  int l = gk_emu::lane(), s = l ^ (x & 31);
  return gk_emu::shuffle(GK_SITE("__shfl_xor_sync"), mask, v, s > (l | (width - 1)) ? l : s);
}
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { __threadfence(); }
inline void __nanosleep(unsigned) { gk_emu::to_scheduler(*gk_emu::cur); }
template <class T>
T atomicAdd(T* p, std::common_type_t<T> v) {
  return gk_emu::atomic(p, [=](T o) { return T(o + v); });
}
template <class T>
T atomicSub(T* p, std::common_type_t<T> v) {
  return gk_emu::atomic(p, [=](T o) { return T(o - v); });
}
template <class T>
T atomicMax(T* p, std::common_type_t<T> v) {
  return gk_emu::atomic(p, [=](T o) { return o < v ? v : o; });
}
template <class T>
T atomicMin(T* p, std::common_type_t<T> v) {
  return gk_emu::atomic(p, [=](T o) { return v < o ? v : o; });
}
template <class T>
T atomicOr(T* p, std::common_type_t<T> v) {
  return gk_emu::atomic(p, [=](T o) { return T(o | v); });
}
template <class T>
T atomicAnd(T* p, std::common_type_t<T> v) {
  return gk_emu::atomic(p, [=](T o) { return T(o & v); });
}
template <class T>
T atomicExch(T* p, std::common_type_t<T> v) {
  return gk_emu::atomic(p, [=](T) { return v; });
}
template <class T>
T atomicCAS(T* p, std::common_type_t<T> c, std::common_type_t<T> v) {
  return gk_emu::atomic(p, [=](T o) { return o == c ? v : o; });
}
inline unsigned atomicInc(unsigned* p, unsigned top) {
  return gk_emu::atomic(p, [=](unsigned o) { return o >= top ? 0 : o + 1; });
}

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T v) {
  *p = v;
}
template <
    class A, class B,
    class C = std::enable_if_t<std::is_arithmetic<A>::value && std::is_arithmetic<B>::value, std::common_type_t<A, B>>>
constexpr C min(A a, B b) {
  return C(a) != C(a) ? C(b) : C(b) < C(a) ? C(b) : C(a);
}  // as fmin: the one that is no NaN
template <
    class A, class B,
    class C = std::enable_if_t<std::is_arithmetic<A>::value && std::is_arithmetic<B>::value, std::common_type_t<A, B>>>
constexpr C max(A a, B b) {
  return C(a) != C(a) ? C(b) : C(a) < C(b) ? C(b) : C(a);
}
inline float rsqrtf(float x) { return float(1.0 / std::sqrt(double(x))); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1.f : 0.f; }
inline int __float2int_rn(float x) { return int(std::nearbyint(x)); }
inline int __float2int_rd(float x) { return int(std::floor(x)); }
inline int __float_as_int(float x) {
  int i;
  memcpy(&i, &x, 4);
  return i;
}
inline float __int_as_float(int i) {
  float x;
  memcpy(&x, &i, 4);
  return x;
}
inline unsigned __float_as_uint(float x) { return unsigned(__float_as_int(x)); }
inline float __uint_as_float(unsigned i) { return __int_as_float(int(i)); }
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned s) {
  return unsigned(((uint64_t(hi) << 32 | lo) >> (s & 31)) & ~0u);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline __half __hfma(__half a, __half b, __half c) { return __float2half(std::fma(float(a), float(b), float(c))); }
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
  return __float2bfloat16(std::fma(float(a), float(b), float(c)));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return __halves2half2(__hfma(__low2half(a), __low2half(b), __low2half(c)),
                        __hfma(__high2half(a), __high2half(b), __high2half(c)));
}
