// quire.kernels._cpu: the kernels as functions of addresses and numbers. They trust what they are given; kernels/*.py are
// the only callers. Of Python only the stable interface is used, so that one binary serves all its versions from 3.11 on.
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdlib>
#include <cstring>

#include <algorithm>

#include "attention.h"
#include "decoder.h"
#include "isa.h"
#include "lora.h"
#include "matrix.h"
#include "pool.h"
#include "quantize.h"
#include "rows.h"
#include "vocabulary.h"

namespace {

using namespace quire;

Isa in_use = Isa::plain;

// Of the functions' arguments and tables: kernels/native.py takes no module of another version. Raise both together.
constexpr long VERSION = 9;

// Giving up Python's lock costs nothing until another thread wants it: then getting it back may take the 5 ms of
// Python's switch interval. So short calls keep it. In multiplications, about a tenth of a millisecond.
constexpr int64_t WORTH_THE_LOCK = 1 << 20;

bool numbers(PyObject* const* args, Py_ssize_t given, long long* out, Py_ssize_t wanted, const char* name) {
  if (given != wanted) {
    PyErr_Format(PyExc_TypeError, "%s takes %zd numbers, got %zd", name, wanted, given);
    return false;
  }
  for (Py_ssize_t i = 0; i < wanted; i++) {
    out[i] = PyLong_AsLongLong(args[i]);
    if (out[i] == -1 && PyErr_Occurred()) return false;
  }
  return true;
}

template <class T>
T* at(long long address) { return reinterpret_cast<T*>(static_cast<uintptr_t>(address)); }

// A job in C++: without Python's lock where it is long; memory that there is not becomes Python's error.
template <class F>
PyObject* done(int64_t work, const F& job) {
  bool enough = true;
  const auto run = [&] {
    try {
      job();
    } catch (const std::bad_alloc&) {
      enough = false;
    }
  };
  if (work < WORTH_THE_LOCK) {
    run();
  } else {
    Py_BEGIN_ALLOW_THREADS
    run();
    Py_END_ALLOW_THREADS
  }
  if (!enough) return PyErr_NoMemory();
  Py_RETURN_NONE;
}

float real(long long bits) {
  const int32_t some = static_cast<int32_t>(bits);
  float x;
  std::memcpy(&x, &some, sizeof x);
  return x;
}

PyObject* py_lora(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[9];
  if (!numbers(args, given, n, 9, "lora")) return nullptr;
  const Entries entries{at<const Entry* const>(n[0]), n[1]};
  const Groups groups(at<const int64_t>(n[2]));
  const Product product{at<const float>(n[3]), n[4], n[5], at<float>(n[6]), n[7], n[8]};
  return done(lora_work(entries, groups, product), [&] { lora(in_use, entries, groups, product); });
}

PyObject* py_pack(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[6];
  if (!numbers(args, given, n, 6, "pack")) return nullptr;
  const Matrix& m = *at<const Matrix>(n[0]);
  return done(n[5] * m.inputs, [&] { pack(m, at<void>(n[1]), at<const void>(n[2]), n[3], n[4], n[5]); });
}

PyObject* py_quantize(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[8];
  if (!numbers(args, given, n, 8, "quantize")) return nullptr;
  const Matrix& m = *at<const Matrix>(n[0]);
  return done(n[7] * m.inputs, [&] {
    quantize(in_use, m, at<void>(n[1]), at<float>(n[2]), static_cast<Format>(n[3]), at<const void>(n[4]), n[5], n[6], n[7]);
  });
}

PyObject* py_product(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[11];
  if (!numbers(args, given, n, 11, "product")) return nullptr;
  const Matrix& m = *at<const Matrix>(n[0]);
  const Inputs in{at<const float>(n[1]), n[2], n[3], m.inputs, at<const float>(n[8]), real(n[9]), static_cast<Gate>(n[10])};
  const int64_t work = m.inputs * m.outputs * std::max<int64_t>(in.count, 4);
  return done(work, [&] { product(in_use, m, in, at<float>(n[4]), n[5], at<const float>(n[6]), n[7]); });
}

PyObject* py_prepare(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[9];
  if (!numbers(args, given, n, 9, "prepare")) return nullptr;
  const Inputs in{at<const float>(n[0]), n[1], n[2], n[3], at<const float>(n[4]), real(n[5]), static_cast<Gate>(n[6])};
  return done(in.count * in.width, [&] { prepare(in_use, in, at<float>(n[7]), n[8]); });
}

PyObject* py_weights_of(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[5];
  if (!numbers(args, given, n, 5, "weights_of")) return nullptr;
  const Matrix& m = *at<const Matrix>(n[0]);
  return done(n[2] * m.inputs, [&] { weights_of(in_use, m, at<const int64_t>(n[1]), n[2], at<float>(n[3]), n[4]); });
}

PyObject* py_attention(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[17];
  if (!numbers(args, given, n, 17, "attention")) return nullptr;
  const AttentionLayer& layer = *at<const AttentionLayer>(n[0]);
  const AttentionStep& step = *at<const AttentionStep>(n[1]);
  const Turned turned{at<const float>(n[2]), at<const float>(n[3]), n[4], at<const float>(n[5]), at<const float>(n[7]),
                      real(n[6]), real(n[8])};
  const Heads q{at<const float>(n[9]), n[10]}, k{at<const float>(n[11]), n[12]}, v{at<const float>(n[13]), n[14]};
  const int64_t work = n[16] * layer.heads * (layer.head_dim + layer.v_dim);
  return done(work, [&] { attention(in_use, layer, step, turned, q, k, v, {}, at<float>(n[15])); });
}

PyObject* py_decoder(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[13];
  if (!numbers(args, given, n, 13, "decoder")) return nullptr;
  return done(WORTH_THE_LOCK, [&] {
    const auto run = [&](const Groups* groups) {
      decoder(in_use, at<const DecoderLayer>(n[0]), n[1], at<const AttentionLayer* const>(n[2]),
              at<const AttentionStep* const>(n[3]), at<const float>(n[4]), at<const float>(n[5]), n[6], at<float>(n[7]), n[8],
              {at<const int64_t>(n[9]), n[10]}, at<const DecoderAdapters>(n[11]), groups);
    };
    if (!n[11]) return run(nullptr);
    const Groups groups(at<const int64_t>(n[12]));
    run(&groups);
  });
}

Logits logits_of(const long long* n) { return {at<float>(n[0]), n[1], n[2], n[3]}; }

PyObject* py_greatest(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[6];
  if (!numbers(args, given, n, 6, "greatest")) return nullptr;
  const Logits l = logits_of(n);
  return done(l.rows * l.vocab, [&] { greatest(in_use, l, at<float>(n[4]), at<int64_t>(n[5])); });
}

PyObject* py_log_sum_exp(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[5];
  if (!numbers(args, given, n, 5, "log_sum_exp")) return nullptr;
  const Logits l = logits_of(n);
  return done(8 * l.rows * l.vocab, [&] { log_sum_exp(in_use, l, at<float>(n[4])); });
}

PyObject* py_draw(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[6];
  if (!numbers(args, given, n, 6, "draw")) return nullptr;
  const Logits l = logits_of(n);
  return done(8 * l.rows * l.vocab, [&] { draw(in_use, l, at<const double>(n[4]), at<int64_t>(n[5])); });
}

PyObject* py_constrain(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[8];
  if (!numbers(args, given, n, 8, "constrain")) return nullptr;
  const Logits l = logits_of(n);
  return done(8 * l.rows * l.vocab, [&] {
    constrain(in_use, l, at<const uint32_t>(n[4]), n[5], at<const int64_t>(n[6]), at<float>(n[7]));
  });
}

PyObject* py_threads(PyObject*, PyObject* wanted) {
  const long long n = PyLong_AsLongLong(wanted);
  if (n == -1 && PyErr_Occurred()) return nullptr;
  if (n < 1 || n > 1024) return PyErr_Format(PyExc_ValueError, "%lld threads, expected 1 to 1024", n);
  Py_BEGIN_ALLOW_THREADS
  pool.resize(static_cast<int>(n));
  Py_END_ALLOW_THREADS
  Py_RETURN_NONE;
}

PyObject* py_isas(PyObject*, PyObject*) {
  PyObject* found = PyList_New(0);
  for (Isa isa : all_isas) {
    if (!found || !has(isa)) continue;
    PyObject* name = PyUnicode_FromString(name_of(isa));
    if (!name || PyList_Append(found, name)) Py_CLEAR(found);
    Py_XDECREF(name);
  }
  return found;
}

PyObject* py_isa(PyObject*, PyObject*) { return PyUnicode_FromString(name_of(in_use)); }

PyObject* py_use(PyObject*, PyObject* wanted) {
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(wanted, &size);
  if (!text) return nullptr;
  for (Isa isa : all_isas) {
    if (std::strcmp(text, name_of(isa)) || !has(isa)) continue;
    in_use = isa;
    Py_RETURN_NONE;
  }
  return PyErr_Format(PyExc_ValueError, "this machine has no instruction set %R; see isas()", wanted);
}

template <class F>
PyCFunction fast(F* f) { return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f)); }

PyMethodDef methods[] = {
    {"lora", fast(py_lora), METH_FASTCALL,
     "lora(entries, capacity, rows, x, x_stride, inputs, y, y_stride, outputs)\n"
     "y [*, outputs] with gain, offset and pieces of each row's slot, in place. Addresses and numbers; strides in floats."},
    {"pack", fast(py_pack), METH_FASTCALL,
     "pack(matrix, panels, rows, stride, first, count)\nRows of weights to their panels; see matrix.h."},
    {"quantize", fast(py_quantize), METH_FASTCALL,
     "quantize(matrix, panels, scales, kind, rows, stride, first, count)\nSee quantize.h; kind: Format of the rows."},
    {"product", fast(py_product), METH_FASTCALL,
     "product(matrix, x, x_stride, rows, y, y_stride, add, add_stride, norm, eps, gate)\n"
     "y = W x + bias + add. eps: the bits of a float."},
    {"prepare", fast(py_prepare), METH_FASTCALL,
     "prepare(x, x_stride, rows, width, norm, eps, gate, y, y_stride)\nThe norm or the gate of rows; see rows.h."},
    {"weights_of", fast(py_weights_of), METH_FASTCALL,
     "weights_of(matrix, index, count, y, y_stride)\nRows of the weights as floats."},
    {"attention", fast(py_attention), METH_FASTCALL,
     "attention(layer, step, cos, sin, angles, q_norm, q_eps, k_norm, k_eps, q, q_stride, k, k_stride, v, v_stride, out,"
     " places)\nSee attention.h. places: that are looked at in all, about."},
    {"decoder", fast(py_decoder), METH_FASTCALL,
     "decoder(layers, count, attentions, steps, cos, sin, angles, x, width, asked, asked_count, adapters, rows)\nSee decoder.h."},
    {"greatest", fast(py_greatest), METH_FASTCALL, "greatest(x, stride, rows, vocab, values, tokens)\nSee vocabulary.h."},
    {"log_sum_exp", fast(py_log_sum_exp), METH_FASTCALL, "log_sum_exp(x, stride, rows, vocab, values)\nSee vocabulary.h."},
    {"draw", fast(py_draw), METH_FASTCALL, "draw(x, stride, rows, vocab, u, tokens)\nSee vocabulary.h."},
    {"constrain", fast(py_constrain), METH_FASTCALL,
     "constrain(x, stride, rows, vocab, masks, stride, which, kept)\nSee vocabulary.h."},
    {"threads", py_threads, METH_O, "threads(n): how many work from now on, the caller's among them; 1 at first."},
    {"isas", py_isas, METH_NOARGS, "The instruction sets that this machine has, the best one last."},
    {"isa", py_isa, METH_NOARGS, "The one in use: the best, unless use() changed it."},
    {"use", py_use, METH_O, "use(isa): compute with this one from now on (for tests and measurements)."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_cpu", "Kernels for the CPU.", -1, methods, nullptr, nullptr, nullptr, nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__cpu(void) {
  for (Isa isa : all_isas)
    if (has(isa)) in_use = isa;
  PyObject* made = PyModule_Create(&module);
  if (made && PyModule_AddIntConstant(made, "VERSION", VERSION)) Py_CLEAR(made);
  return made;
}
