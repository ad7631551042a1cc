// Sixteen lanes: the fixed shape of every reduction, so that its bits depend on no vector width.
//
// Lane l holds elements l, l+16, l+32, ...; lanes are combined in double by a fixed tree. Written with the compilers'
// vector types of the level's own width: plain arrays of sixteen give the same bits, but GCC 12 turns loops over two of
// them into permutations and spills (docs/performance.md).
#pragma once

#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

constexpr int kLanes = 16;
constexpr std::int64_t kBlock = 1024;  // elements summed in the array's own type before they are added up in double

template <typename T>
struct IntegerLike;
template <>
struct IntegerLike<float> {
  using Type = std::int32_t;
};
template <>
struct IntegerLike<double> {
  using Type = std::int64_t;
};

template <typename T>
struct Lanes {
  static constexpr int kNative = kVectorBytes / static_cast<int>(sizeof(T));
  static constexpr int kVectors = kLanes / kNative;
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  typedef typename IntegerLike<T>::Type Integers __attribute__((vector_size(kVectorBytes)));

  // the same in memory: aligned like T, and allowed to alias it
  typedef T Unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));

  Vector v[kVectors];

  static Lanes all(T value) {
    Lanes r;
    for (int i = 0; i < kVectors; ++i) r.v[i] = value - Vector{};
    return r;
  }
  // Vector by vector: GCC copies a whole group in halves, and reading those back as vectors stalls.
  static Lanes load(const T* p) {
    Lanes r;
    for (int i = 0; i < kVectors; ++i) r.v[i] = *reinterpret_cast<const Unaligned*>(p + i * kNative);
    return r;
  }
  // The first n of p, the rest `fill`.
  static Lanes load(const T* p, std::int64_t n, T fill) {
    T padded[kLanes];
    for (int l = 0; l < kLanes; ++l) padded[l] = l < n ? p[l] : fill;
    return load(padded);
  }
  void store(T* p) const {
    for (int i = 0; i < kVectors; ++i) *reinterpret_cast<Unaligned*>(p + i * kNative) = v[i];
  }
  void store(T* p, std::int64_t n) const {
    T padded[kLanes];
    store(padded);
    for (std::int64_t l = 0; l < n; ++l) p[l] = padded[l];
  }
  // The same lanes with lane l set to zero.
  Lanes without(int l) const {
    Integers lane;
    for (int i = 0; i < kNative; ++i) lane[i] = i;
    Lanes r;
    for (int i = 0; i < kVectors; ++i) r.v[i] = lane + i * kNative == l ? Vector{} : v[i];
    return r;
  }
  // The same lanes with the first n set to zero.
  Lanes from(int n) const {
    Integers lane;
    for (int i = 0; i < kNative; ++i) lane[i] = i;
    Lanes r;
    for (int i = 0; i < kVectors; ++i) r.v[i] = lane + i * kNative >= n ? v[i] : Vector{};
    return r;
  }
  // Lanes combined by a fixed tree: l with l + 8, then with l + 4, l + 2, l + 1.
  double sum() const;
  T max() const;
};

template <typename T, typename Combine>
inline T fold(const Lanes<T>& lanes, Combine combine) {
  Lanes<T> r = lanes;
  for (int half = Lanes<T>::kVectors / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) r.v[i] = combine(r.v[i], r.v[i + half]);
  T lane[kLanes];
  r.store(lane);
  for (int half = Lanes<T>::kNative / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lane[l] = combine(lane[l], lane[l + half]);
  return lane[0];
}

#define ONEPASS_LANEWISE(op)                                                \
  template <typename T>                                                     \
  inline Lanes<T> operator op(const Lanes<T>& a, const Lanes<T>& b) {       \
    Lanes<T> r;                                                             \
    for (int i = 0; i < Lanes<T>::kVectors; ++i) r.v[i] = a.v[i] op b.v[i]; \
    return r;                                                               \
  }
ONEPASS_LANEWISE(+)
ONEPASS_LANEWISE(-)
ONEPASS_LANEWISE(*)
#undef ONEPASS_LANEWISE

// a > b ? a : b in each lane: b where either is NaN.
template <typename T>
inline Lanes<T> maximum(const Lanes<T>& a, const Lanes<T>& b) {
  Lanes<T> r;
  for (int i = 0; i < Lanes<T>::kVectors; ++i) r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return r;
}

// value where mask > 0, else zero (NaN in mask: zero).
template <typename T>
inline Lanes<T> where_positive(const Lanes<T>& mask, const Lanes<T>& value) {
  Lanes<T> r;
  const typename Lanes<T>::Vector zero = {};
  for (int i = 0; i < Lanes<T>::kVectors; ++i) r.v[i] = mask.v[i] > zero ? value.v[i] : zero;
  return r;
}

// value where mask is not zero (or NaN), else zero.
template <typename T>
inline Lanes<T> where_nonzero(const Lanes<T>& mask, const Lanes<T>& value) {
  Lanes<T> r;
  const typename Lanes<T>::Vector zero = {};
  for (int i = 0; i < Lanes<T>::kVectors; ++i) r.v[i] = mask.v[i] != zero ? value.v[i] : zero;
  return r;
}

// value where key == number, else other.
template <typename T>
inline Lanes<T> where_equal(const Lanes<T>& key, T number, const Lanes<T>& value, const Lanes<T>& other) {
  Lanes<T> r;
  for (int i = 0; i < Lanes<T>::kVectors; ++i) r.v[i] = key.v[i] == number ? value.v[i] : other.v[i];
  return r;
}

// Sixteen elements as double.
inline Lanes<double> load_double(const double* p) { return Lanes<double>::load(p); }
inline Lanes<double> load_double(const float* p) {
  using Wide = Lanes<double>;
  typedef float Half __attribute__((vector_size(kVectorBytes / 2), aligned(sizeof(float)), may_alias));
  Wide r;
  for (int i = 0; i < Wide::kVectors; ++i)
    r.v[i] = __builtin_convertvector(*reinterpret_cast<const Half*>(p + i * Wide::kNative), Wide::Vector);
  return r;
}

template <typename T>
double Lanes<T>::sum() const {
  T lane[kLanes];
  store(lane);
  return fold(load_double(lane), [](auto a, auto b) { return a + b; });
}
template <typename T>
T Lanes<T>::max() const {
  return fold(*this, [](auto a, auto b) { return a > b ? a : b; });
}

// Calls visit(first element, lanes in use) for every group of sixteen.
template <typename Visit>
inline void for_groups(std::int64_t n, Visit&& visit) {
  std::int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) visit(j, std::int64_t{kLanes});
  if (j < n) visit(j, n - j);
}

// Loads a group that may be the last, short one.
template <typename T>
inline Lanes<T> load_group(const T* p, std::int64_t n, T fill = T(0)) {
  return n == kLanes ? Lanes<T>::load(p) : Lanes<T>::load(p, n, fill);
}
template <typename T>
inline void store_group(const Lanes<T>& lanes, T* p, std::int64_t n) {
  if (n == kLanes)
    lanes.store(p);
  else
    lanes.store(p, n);
}

}  // namespace
