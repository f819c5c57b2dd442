#pragma once
/// What is wrong now or was lately, for `status`: problem codes are the contract's. Two kinds:
/// a condition lasts from report() to clear(); an event is over when it is reported. Both are kept
/// 15 minutes after they were last seen. Thread: everything is thread-safe; time comes in.

#include <meshnode/time.h>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace meshnode::telemetry {

struct ProblemReport {
  std::string code;      ///< kebab-case noun of docs/problems.md: "peer-refused"
  std::string object;    ///< what it is about: "bookinfo/reviews", "10.0.0.7"
  std::string message;   ///< what is wrong, and why
  std::string hint;      ///< the next step
  bool lasting = false;  ///< a condition: active until clear()
  /// Something of ours is wrong. A condition degrades health while active, an event while listed.
  bool degrades = false;
};

struct Problem {
  std::string code, object, message, hint;
  bool active = false;
  bool degrades = false;
  std::uint64_t count = 0;
  WallTime first_seen{};
  WallTime last_seen{};
};

class ProblemLog {
 public:
  static constexpr std::size_t kMaxProblems = 1'000;
  static constexpr std::size_t kMaxText = 1'024;  ///< octets of each text; the rest is cut
  static constexpr Duration kKept = std::chrono::minutes(15);

  /// The same code and object again is the same problem: counted, with the newest texts. When
  /// full, the oldest make room: those that do not degrade health first, and only they for one
  /// that does not; active conditions never. What finds no room is counted by lost().
  void report(const ProblemReport& report, WallTime now);
  /// The condition has ended; it stays listed for kKept.
  void clear(std::string_view code, std::string_view object, WallTime now);
  /// Ends every condition of `code` whose object is not in `objects`.
  void retain(std::string_view code, const std::vector<std::string>& objects, WallTime now);

  /// Sorted: active first, then what degrades, then the latest.
  std::vector<Problem> snapshot(WallTime now);
  /// How many problems degrade health now.
  std::size_t degrading(WallTime now);
  std::uint64_t lost() const;

 private:
  using Key = std::pair<std::string, std::string>;
  void expire(WallTime now);
  bool make_room(bool for_degrading);

  mutable std::mutex mutex_;
  std::map<Key, Problem> problems_;
  std::uint64_t lost_ = 0;
};

}  // namespace meshnode::telemetry
