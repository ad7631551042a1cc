// The registry and the plan of optimizer updates; global_norm.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bindings/arrays.hpp"

namespace {

onepass_update find_update(const std::string& name) {
  for (int i = 0; i < ONEPASS_UPDATE_COUNT; ++i)
    if (onepass_update_registry(static_cast<onepass_update>(i))->name == name) return static_cast<onepass_update>(i);
  throw py::value_error("update: there is no " + name);
}

// Tensors that are checked once; holds their arrays alive. step() looks again only at gradients that changed.
class Plan {
 public:
  // states: for each parameter a sequence of arrays, in the registry's order
  Plan(const std::string& update, const py::list& params, const py::list& states)
      : info_(onepass_update_registry(find_update(update))), params_(params), states_(states), grads_(params.size()) {
    if (states.size() != params.size()) throw py::value_error("states: expected one sequence for each parameter");
    std::vector<onepass_update_tensor> tensors(params.size());
    for (std::size_t i = 0; i < params.size(); ++i) {
      const std::string at = params.size() == 1 ? "" : "[" + std::to_string(i) + "]";
      tensors[i].param = writable(("param" + at).c_str(), params[i]);
      tensors[i].grad.ndim = -1;
      const auto own = py::cast<py::sequence>(states[i]);
      if (own.size() != info_->state_count)
        throw py::value_error("states" + at + ": expected " + std::to_string(info_->state_count) + " arrays, got " +
                              std::to_string(own.size()));
      for (std::size_t k = 0; k < info_->state_count; ++k)
        tensors[i].states[k] = writable((info_->states[k] + at).c_str(), own[k]);
    }
    onepass_plan* plan = nullptr;
    raise_if(onepass_plan_create(find_update(update), tensors.data(), tensors.size(), &plan));
    plan_.reset(plan);
  }

  // groups: a tuple (step, grad_scale, maximize, *hyperparameters in the registry's order) each
  void step(const py::list& grads, const py::list& groups, int threads) {
    if (grads.size() != grads_.size())
      throw py::value_error("grads: expected " + std::to_string(grads_.size()) + " (one for each parameter), got " +
                            std::to_string(grads.size()));
    for (std::size_t i = 0; i < grads_.size(); ++i) set_grad(i, grads[i]);
    hyper_.resize(groups.size() * info_->hyper_size);
    for (std::size_t g = 0; g < groups.size(); ++g) fill(hyper_.data() + g * info_->hyper_size, groups[g]);
    call([&] { return info_->run(plan_.get(), hyper_.data(), groups.size(), threads); });
  }

  void set_groups(const std::vector<int>& groups) {
    for (std::size_t i = 0; i < groups.size(); ++i) raise_if(onepass_plan_set_group(plan_.get(), i, groups[i]));
  }

 private:
  struct Seen {  // the gradient that the plan knows; the object is kept, so its memory stays
    py::object object;
    const void* data = nullptr;
  };

  void set_grad(std::size_t i, py::handle grad) {
    Seen& seen = grads_[i];
    if (seen.object.ptr() == grad.ptr()) {
      if (grad.is_none() || py::reinterpret_borrow<py::array>(grad).data() == seen.data) return;
    }
    const std::string name = grads_.size() == 1 ? "grad" : "grad[" + std::to_string(i) + "]";
    const onepass_array view = readable(name.c_str(), grad);
    raise_if(onepass_plan_set_grad(plan_.get(), i, &view));
    seen = {py::reinterpret_borrow<py::object>(grad), view.data};
  }

  void fill(char* hyper, py::handle given) const {
    const auto values = py::cast<py::tuple>(given);
    if (values.size() != 3 + info_->field_count) throw py::value_error("groups: wrong number of hyperparameters");
    struct {
      std::int64_t step;
      double grad_scale;
      std::int32_t maximize;
    } common = {values[0].cast<std::int64_t>(), values[1].cast<double>(), values[2].cast<bool>()};
    std::memset(hyper, 0, info_->hyper_size);
    std::memcpy(hyper, &common, offsetof_maximize() + sizeof(common.maximize));
    for (std::size_t i = 0; i < info_->field_count; ++i) {
      const onepass_field& field = info_->fields[i];
      if (field.flag != 0) {
        const std::int32_t value = values[3 + i].cast<bool>();
        std::memcpy(hyper + field.offset, &value, sizeof(value));
      } else {
        const double value = values[3 + i].cast<double>();
        std::memcpy(hyper + field.offset, &value, sizeof(value));
      }
    }
  }
  static constexpr std::size_t offsetof_maximize() { return sizeof(std::int64_t) + sizeof(double); }

  struct Destroy {
    void operator()(onepass_plan* plan) const { onepass_plan_destroy(plan); }
  };
  const onepass_update_info* info_;
  py::list params_, states_;
  std::vector<Seen> grads_;
  std::vector<char> hyper_;
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
    updates.append(py::make_tuple(info->name, py::tuple(states), py::tuple(fields)));
  }
  return updates;
}

}  // namespace

void register_updates(py::module_& m) {
  m.def("update_registry", registry);
  py::class_<Plan>(m, "Plan")
      .def(py::init<const std::string&, const py::list&, const py::list&>(), py::arg("update"), py::arg("params"),
           py::arg("states"))
      .def("step", &Plan::step, py::arg("grads"), py::arg("groups"), py::arg("threads") = 0)
      .def("set_groups", &Plan::set_groups, py::arg("groups"));
  m.def(
      "global_norm",
      [](const py::list& arrays, int threads) {
        std::vector<onepass_array> views;
        for (const py::handle a : arrays) views.push_back(readable("arrays", a));
        double norm = 0.0;
        call([&] { return onepass_global_norm(views.data(), views.size(), &norm, threads); });
        return norm;
      },
      py::arg("arrays"), py::arg("threads") = 0);
}
