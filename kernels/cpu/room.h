// Working memory of a thread, kept from call to call: fresh memory costs a fault a page.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace quire {

// At least `floats` floats, content undefined, valid until this thread asks for the same room again.
template <int which>
float* room(int64_t floats) {
  struct Held {
    float* at = nullptr;
    int64_t size = 0;
    ~Held() { std::free(at); }
  };
  static thread_local Held held;
  if (floats > held.size) {
    std::free(held.at);
    held.size = (floats + floats / 4 + 1023) / 1024 * 1024;
    held.at = static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(held.size) * sizeof(float)));
    if (!held.at) {
      held.size = 0;
      throw std::bad_alloc();
    }
  }
  return held.at;
}

}  // namespace quire
