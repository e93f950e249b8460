// Memory advice for outputs of CPU kernels. No torch header.
#pragma once
#include <cstdint>

namespace gk {

// Asks for huge pages behind [data, data + bytes), which is about to be written as a whole for the first time. A fresh
// large allocation is mapped page by page at its first touch; with 4 KB pages that costs several times the write
// itself. A hint: without effect where the system does not offer it, on small outputs, and on memory that is mapped
// already.
void advise_huge_pages(void* data, int64_t bytes);

}  // namespace gk
