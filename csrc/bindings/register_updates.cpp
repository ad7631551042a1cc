// The registry and the plan of optimizer updates; global_norm.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <pybind11/stl.h>

#include "bindings/arrays.hpp"

namespace {

onepass_update find_update(const std::string& name) {
  for (int i = 0; i < ONEPASS_UPDATE_COUNT; ++i)
    if (onepass_update_registry(static_cast<onepass_update>(i))->name == name) return static_cast<onepass_update>(i);
  throw py::value_error("update: there is no " + name);
}

double real(const char* name, py::handle value) {
  const double result = PyFloat_AsDouble(value.ptr());
  if (result == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + ": expected a number, got " +
                         py::repr(py::reinterpret_borrow<py::object>(value)).cast<std::string>());
  }
  return result;
}

std::int32_t flag(const char* name, py::handle value) {
  const bool boolean = PyBool_Check(value.ptr()) || PyLong_Check(value.ptr()) ||
                       py::str(py::type::of(value).attr("__name__")).cast<std::string>().rfind("bool", 0) == 0;
  if (!boolean)
    throw py::type_error(std::string(name) + ": expected True or False, got " +
                         py::repr(py::reinterpret_borrow<py::object>(value)).cast<std::string>());
  return PyObject_IsTrue(value.ptr()) == 1;
}

// NumPy has no bfloat16: its bits come as uint16 (or as an array of ml_dtypes).
onepass_array half(onepass_array a) {
  if (a.dtype == ONEPASS_UINT16) a.dtype = ONEPASS_BFLOAT16;
  return a;
}

// A state in uint8 holds 8-bit blocks.
onepass_array state(onepass_array a) {
  if (a.dtype == ONEPASS_UINT8) a.dtype = ONEPASS_BLOCKS8;
  return half(a);
}

// Tensors that are checked once; holds their arrays alive. step() looks again only at gradients that changed.
class Plan {
 public:
  // states: for each parameter a sequence of arrays, in the registry's order. beside: for each parameter an array or
  // None under "lower", "copy", "average 0" and "average 1".
  Plan(const std::string& update, const py::list& params, const py::list& states, std::vector<int> group_of,
       const py::dict& beside)
      : info_(onepass_update_registry(find_update(update))),
        params_(params),
        states_(states),
        beside_(beside),
        group_of_(std::move(group_of)),
        steps_(params.size()),
        grads_(params.size()),
        row_of_(params.size()) {
    if (states.size() != params.size()) throw py::value_error("states: expected one sequence for each parameter");
    if (group_of_.size() != params.size()) throw py::value_error("group_of: expected one for each parameter");
    std::vector<onepass_update_tensor> tensors(params.size());
    for (std::size_t i = 0; i < params.size(); ++i) {
      const std::string at = params.size() == 1 ? "" : "[" + std::to_string(i) + "]";
      tensors[i].param = half(writable(("param" + at).c_str(), params[i]));
      tensors[i].grad.ndim = -1;
      const auto own = py::cast<py::sequence>(states[i]);
      if (own.size() != info_->state_count)
        throw py::value_error("states" + at + ": expected " + std::to_string(info_->state_count) + " arrays, got " +
                              std::to_string(own.size()));
      for (std::size_t k = 0; k < info_->state_count; ++k)
        tensors[i].states[k] = state(writable((info_->states[k] + at).c_str(), own[k]));
      const auto optional = [&](const char* name) {
        if (!beside.contains(name)) return readable(name, py::none());
        return writable((name + at).c_str(), py::cast<py::sequence>(beside[name])[i]);
      };
      tensors[i].lower = optional("lower");
      tensors[i].copy = half(optional("copy"));
      tensors[i].averages[0] = optional("average 0");
      tensors[i].averages[1] = optional("average 1");
    }
    onepass_plan* plan = nullptr;
    raise_if(onepass_plan_create(find_update(update), tensors.data(), tensors.size(), &plan));
    plan_.reset(plan);
  }

  // groups: a tuple (maximize, *hyperparameters in the registry's order) for each parameter group. A list that is the
  // last step's object is not read again.
  void step(const py::list& grads, const py::list& groups, double grad_scale, py::handle max_value, int threads) {
    check_count(grads);
    for (std::size_t i = 0; i < grads_.size(); ++i) set_grad(i, grads[i]);
    run(groups, grad_scale, max_value, threads);
  }

  // The same with gradients that are named by their addresses, None for none: nothing is wrapped or kept alive. Each
  // lies in memory as the array that show_grad was last given for it.
  void step_at(const py::list& addresses, const py::list& groups, double grad_scale, py::handle max_value,
               int threads) {
    set_addresses(addresses);
    run(groups, grad_scale, max_value, threads);
  }

  // Takes type, shape and strides of gradient i from an array, which is not kept alive.
  void show_grad(std::size_t i, py::handle grad) {
    if (i >= grads_.size() || grad.is_none()) throw py::value_error("grad: no such parameter, or None");
    set_grad(i, grad);
    grads_[i].object = py::none();
  }

  // Checks and takes the addresses of the coming step, and steps nothing.
  void point_at(const py::list& addresses) { set_addresses(addresses); }

  // Of gradients that are named as for step_at.
  double norm_at(const py::list& addresses, int threads) {
    set_addresses(addresses);
    std::vector<onepass_array> views;
    for (const Seen& seen : grads_)
      if (seen.active) views.push_back(seen.at(seen.data));
    double norm = 0.0;
    call([&] { return onepass_global_norm(views.data(), views.size(), &norm, threads); });
    return norm;
  }

  // bits: gradients in uint16 are bfloat16
  void set_storage(bool stochastic, std::uint64_t seed, bool bits) {
    raise_if(onepass_plan_set_rounding(plan_.get(), stochastic, seed));
    bits_ = bits;
  }

  void set_average(int i, double weight, bool write_back) {
    raise_if(onepass_plan_set_average(plan_.get(), i, weight, write_back));
  }
  // of the last step, for each parameter
  std::vector<std::array<double, 2>> sums() const {
    std::vector<std::array<double, 2>> all(steps_.size());
    for (std::size_t i = 0; i < all.size(); ++i) raise_if(onepass_plan_sums(plan_.get(), i, all[i].data()));
    return all;
  }

  const std::vector<std::int64_t>& steps() const { return steps_; }
  void set_steps(const std::vector<std::int64_t>& steps) {
    if (steps.size() != steps_.size()) throw py::value_error("steps: expected one for each parameter");
    steps_ = steps;
  }

 private:
  // The gradient that the plan knows. The array is kept alive; its data, type, shape and strides can be assigned in
  // place, so they are compared.
  struct Seen {
    py::object object = py::none();  // none as well where it is known by its address
    const void* data = nullptr;
    const void* dtype = nullptr;
    std::int32_t code = -1;
    std::vector<py::ssize_t> extents;  // shape, then strides
    bool active = false;               // there is one

    bool holds(const py::array& a) const {
      const py::ssize_t n = a.ndim();
      return a.data() == data && a.dtype().ptr() == dtype && static_cast<py::ssize_t>(extents.size()) == 2 * n &&
             std::equal(a.shape(), a.shape() + n, extents.begin()) &&
             std::equal(a.strides(), a.strides() + n, extents.begin() + n);
    }
    onepass_array at(const void* address) const {
      const auto* numbers = reinterpret_cast<const std::int64_t*>(extents.data());
      const std::size_t ndim = extents.size() / 2;
      return {const_cast<void*>(address), numbers, numbers + ndim, static_cast<std::int32_t>(ndim), code};
    }
  };
  struct Common {  // what every hyperparameter struct begins with
    std::int64_t step;
    double grad_scale;
    double max_value;
    std::int32_t maximize;
  };

  void set_grad(std::size_t i, py::handle grad) {
    Seen& seen = grads_[i];
    if (grad.is_none() ? !seen.active
                       : seen.object.ptr() == grad.ptr() && seen.holds(py::reinterpret_borrow<py::array>(grad)))
      return;
    const std::string name = grad_name(i);
    onepass_array view = readable(name.c_str(), grad);
    if (view.ndim >= 0 && view.dtype == ONEPASS_UINT16 && !bits_)
      throw py::type_error(name + ": is uint16; if these are the bits of bfloat16, say dtype='bfloat16'");
    view = half(view);
    raise_if(onepass_plan_set_grad(plan_.get(), i, &view));
    seen.object = py::reinterpret_borrow<py::object>(grad);
    seen.active = !grad.is_none();
    if (!seen.active) return;
    const auto array = py::reinterpret_borrow<py::array>(grad);
    seen.data = array.data();
    seen.dtype = array.dtype().ptr();
    seen.code = view.dtype;
    seen.extents.assign(array.shape(), array.shape() + array.ndim());
    seen.extents.insert(seen.extents.end(), array.strides(), array.strides() + array.ndim());
  }

  std::string grad_name(std::size_t i) const { return grads_.size() == 1 ? "grad" : "grad[" + std::to_string(i) + "]"; }

  void check_count(const py::list& grads) const {
    if (grads.size() != grads_.size())
      throw py::value_error("grads: expected " + std::to_string(grads_.size()) + " (one for each parameter), got " +
                            std::to_string(grads.size()));
  }

  void set_addresses(const py::list& addresses) {
    check_count(addresses);
    for (std::size_t i = 0; i < grads_.size(); ++i) set_address(i, addresses[i]);
  }

  void set_address(std::size_t i, py::handle address) {
    Seen& seen = grads_[i];
    if (address.is_none()) return set_grad(i, address);
    const void* data = PyLong_AsVoidPtr(address.ptr());
    if (PyErr_Occurred()) throw py::error_already_set();
    if (seen.active && seen.data == data) return;
    if (seen.code < 0) throw py::value_error(grad_name(i) + ": no array was shown that says how it lies in memory");
    const onepass_array view = seen.at(data);
    raise_if(onepass_plan_set_grad(plan_.get(), i, &view));
    seen.object = py::none();
    seen.data = data;
    seen.active = true;
  }

  // The step, once the plan has the gradients.
  void run(const py::list& groups, double grad_scale, py::handle max_value, int threads) {
    if (!groups.is(groups_)) {
      read_groups(groups);
      groups_ = groups;
    }
    select_rows(groups.size(), grad_scale, real("max_value", max_value));
    call([&] { return info_->run(plan_.get(), rows_.data(), row_count_, threads); });
    for (std::size_t i = 0; i < grads_.size(); ++i) steps_[i] += grads_[i].active;
  }

  void read_groups(const py::list& groups) {
    hyper_.assign(groups.size() * info_->hyper_size, 0);
    for (std::size_t g = 0; g < groups.size(); ++g) {
      char* hyper = hyper_.data() + g * info_->hyper_size;
      const auto values = py::cast<py::tuple>(groups[g]);
      if (values.size() != 1 + info_->field_count) throw py::value_error("groups: wrong number of hyperparameters");
      const Common common = {0, 1.0, 1.0, flag("maximize", values[0])};
      std::memcpy(hyper, &common, offsetof(Common, maximize) + sizeof(common.maximize));
      for (std::size_t i = 0; i < info_->field_count; ++i) {
        const onepass_field& field = info_->fields[i];
        if (field.flag != 0) {
          const std::int32_t value = flag(field.name, values[1 + i]);
          std::memcpy(hyper + field.offset, &value, sizeof(value));
        } else {
          const double value = real(field.name, values[1 + i]);
          std::memcpy(hyper + field.offset, &value, sizeof(value));
        }
      }
    }
  }

  // One row of hyperparameters for each pair of group and step count that occurs: nearly always one a group.
  void select_rows(std::size_t group_count, double grad_scale, double max_value) {
    std::vector<std::pair<int, std::int64_t>>& keys = keys_;
    keys.clear();
    for (std::size_t i = 0; i < grads_.size(); ++i) {
      if (!grads_[i].active) continue;
      const std::pair<int, std::int64_t> key = {group_of_[i], steps_[i] + 1};
      if (static_cast<std::size_t>(key.first) >= group_count) throw py::value_error("groups: too few");
      std::size_t row = keys.size();
      while (row > 0 && keys[row - 1] != key) --row;
      if (row == 0) {
        keys.push_back(key);
        row = keys.size();
      }
      if (row_of_[i] != static_cast<int>(row) - 1) {
        row_of_[i] = static_cast<int>(row) - 1;
        raise_if(onepass_plan_set_group(plan_.get(), i, row_of_[i]));
      }
    }
    row_count_ = keys.size();
    rows_.resize(row_count_ * info_->hyper_size);
    for (std::size_t row = 0; row < row_count_; ++row) {
      char* to = rows_.data() + row * info_->hyper_size;
      std::memcpy(to, hyper_.data() + static_cast<std::size_t>(keys[row].first) * info_->hyper_size, info_->hyper_size);
      std::memcpy(to + offsetof(Common, step), &keys[row].second, sizeof(std::int64_t));
      std::memcpy(to + offsetof(Common, grad_scale), &grad_scale, sizeof(double));
      std::memcpy(to + offsetof(Common, max_value), &max_value, sizeof(double));
    }
  }

  struct Destroy {
    void operator()(onepass_plan* plan) const { onepass_plan_destroy(plan); }
  };
  const onepass_update_info* info_;
  py::list params_, states_, groups_;
  py::dict beside_;
  std::vector<int> group_of_;        // of each parameter
  std::vector<std::int64_t> steps_;  // made so far
  std::vector<Seen> grads_;
  std::vector<char> hyper_;  // (groups) structs without step, grad_scale and max_value
  std::vector<std::pair<int, std::int64_t>> keys_;
  std::vector<char> rows_;   // (row_count_) structs as the step takes them
  std::vector<int> row_of_;  // of each parameter
  std::size_t row_count_ = 0;
  bool bits_ = false;
  std::unique_ptr<onepass_plan, Destroy> plan_;
};

py::list registry() {
  py::list updates;
  for (int i = 0; i < ONEPASS_UPDATE_COUNT; ++i) {
    const onepass_update_info* info = onepass_update_registry(static_cast<onepass_update>(i));
    py::list states, fields;
    for (std::size_t k = 0; k < info->state_count; ++k) states.append(info->states[k]);
    for (std::size_t k = 0; k < info->field_count; ++k) {
      const onepass_field& f = info->fields[k];
      if (f.flag != 0)
        fields.append(py::make_tuple(f.name, f.value != 0.0));
      else
        fields.append(py::make_tuple(f.name, f.value));
    }
    py::list positive;
    for (std::size_t k = 0; k < info->state_count; ++k) positive.append(info->positive[k] != 0);
    updates.append(py::make_tuple(info->name, py::tuple(states), py::tuple(fields), py::tuple(positive), info->bytes));
  }
  return updates;
}

// Whether two lists hold the same objects; == would ask tensors, which answer elementwise.
bool same_objects(const py::list& a, const py::list& b) {
  const Py_ssize_t count = PyList_GET_SIZE(a.ptr());
  bool same = count == PyList_GET_SIZE(b.ptr());
  for (Py_ssize_t i = 0; same && i < count; ++i) same = PyList_GET_ITEM(a.ptr(), i) == PyList_GET_ITEM(b.ptr(), i);
  return same;
}

// Whether the values of a dictionary's dictionaries, in their order, are these objects; other values are passed over.
bool same_values(const py::dict& entries, const py::list& objects) {
  const Py_ssize_t count = PyList_GET_SIZE(objects.ptr());
  Py_ssize_t seen = 0, outer = 0;
  PyObject *key = nullptr, *entry = nullptr, *value = nullptr;
  while (PyDict_Next(entries.ptr(), &outer, &key, &entry) != 0) {
    if (!PyDict_Check(entry)) continue;
    for (Py_ssize_t inner = 0; PyDict_Next(entry, &inner, &key, &value) != 0; ++seen)
      if (seen == count || PyList_GET_ITEM(objects.ptr(), seen) != value) return false;
  }
  return seen == count;
}

}  // namespace

void register_updates(py::module_& m) {
  m.def("same_objects", same_objects, py::arg("a"), py::arg("b"));
  m.def("same_values", same_values, py::arg("entries"), py::arg("objects"));
  m.def("update_registry", registry);
  py::class_<Plan>(m, "Plan")
      .def(py::init<const std::string&, const py::list&, const py::list&, std::vector<int>, const py::dict&>(),
           py::arg("update"), py::arg("params"), py::arg("states"), py::arg("group_of"), py::arg("beside") = py::dict())
      .def("step", &Plan::step, py::arg("grads"), py::arg("groups"), py::arg("grad_scale"), py::arg("max_value"),
           py::arg("threads"))
      .def("step_at", &Plan::step_at, py::arg("addresses"), py::arg("groups"), py::arg("grad_scale"),
           py::arg("max_value"), py::arg("threads"))
      .def("show_grad", &Plan::show_grad, py::arg("i"), py::arg("grad"))
      .def("point_at", &Plan::point_at, py::arg("addresses"))
      .def("norm_at", &Plan::norm_at, py::arg("addresses"), py::arg("threads") = 0)
      .def("set_storage", &Plan::set_storage, py::arg("stochastic"), py::arg("seed"), py::arg("bits"))
      .def("set_average", &Plan::set_average, py::arg("i"), py::arg("weight"), py::arg("write_back"))
      .def("sums", &Plan::sums)
      .def_property("steps", &Plan::steps, &Plan::set_steps);
  m.def(
      "zero",
      [](const py::list& arrays) {
        std::vector<onepass_array> views;
        for (const py::handle a : arrays) views.push_back(writable("arrays", a));
        call([&] { return onepass_zero(views.data(), views.size(), 0); });
      },
      py::arg("arrays"));
  m.def(
      "global_norm",
      [](const py::list& arrays, int threads) {
        std::vector<onepass_array> views;
        for (const py::handle a : arrays) views.push_back(half(readable("arrays", a)));
        double norm = 0.0;
        call([&] { return onepass_global_norm(views.data(), views.size(), &norm, threads); });
        return norm;
      },
      py::arg("arrays"), py::arg("threads") = 0);
}
