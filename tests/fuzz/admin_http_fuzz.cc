// However a request is cut into reads, it is read the same, within its bounds.
#include <algorithm>
#include <cstdlib>

#include "admin/http.h"

namespace {

using meshnode::admin::RequestParser;
using Progress = RequestParser::Progress;

bool same(const RequestParser& a, const RequestParser& b) {
  return a.request().method == b.request().method && a.request().path == b.request().path &&
         a.request().query == b.request().query && a.request().body == b.request().body &&
         a.request().headers.size() == b.request().headers.size() &&
         a.refusal().status == b.refusal().status;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::size_t step = 1U + data[0] % 16U;
  meshnode::Bytes all(data + 1, size - 1);
  RequestParser whole;
  Progress at_once = all.empty() ? Progress::kMore : whole.feed(all);
  RequestParser pieces;
  Progress in_pieces = Progress::kMore;
  for (std::size_t at = 0; at < all.size(); at += step) {
    in_pieces = pieces.feed(all.subspan(at, std::min(step, all.size() - at)));
  }
  bool over = at_once == Progress::kDone || at_once == Progress::kRefused;
  bool pieces_over = in_pieces == Progress::kDone || in_pieces == Progress::kRefused;
  if (over != pieces_over) std::abort();
  if (over && (at_once != in_pieces || !same(whole, pieces))) std::abort();
  if (whole.request().body.size() > meshnode::admin::kMaxBody) std::abort();
  if (at_once == Progress::kDone && whole.request().path.front() != '/') std::abort();
  return 0;
}
