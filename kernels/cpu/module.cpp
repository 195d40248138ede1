// quire.kernels._cpu: the kernels as functions of addresses and numbers. They trust what they are given; kernels/*.py are
// the only callers. Of Python only the stable interface is used, so that one binary serves all its versions from 3.11 on.
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdlib>
#include <cstring>

#include "isa.h"
#include "lora.h"

namespace {

using namespace quire;

Isa in_use = Isa::plain;

// Of the functions' arguments and tables: kernels/native.py takes no module of another version. Raise both together.
constexpr long VERSION = 1;

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

PyObject* py_lora(PyObject*, PyObject* const* args, Py_ssize_t given) {
  long long n[9];
  if (!numbers(args, given, n, 9, "lora")) return nullptr;
  const Entries entries{at<const Entry* const>(n[0]), n[1]};
  const Groups groups(at<const int64_t>(n[2]));
  const Product product{at<const float>(n[3]), n[4], n[5], at<float>(n[6]), n[7], n[8]};
  float few[4 * 256];
  const int64_t wanted = lora_scratch(entries, groups);
  float* scratch = few;
  if (wanted > static_cast<int64_t>(sizeof few / sizeof *few)) {
    scratch = static_cast<float*>(std::malloc(static_cast<size_t>(wanted) * sizeof(float)));
    if (!scratch) return PyErr_NoMemory();
  }
  if (lora_work(entries, groups, product) < WORTH_THE_LOCK) {
    lora(in_use, entries, groups, product, scratch);
  } else {
    Py_BEGIN_ALLOW_THREADS
    lora(in_use, entries, groups, product, scratch);
    Py_END_ALLOW_THREADS
  }
  if (scratch != few) std::free(scratch);
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
