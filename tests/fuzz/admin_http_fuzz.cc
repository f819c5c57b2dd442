// However a request is cut into reads, it is read the same, within its bounds.
#include <algorithm>

#include "admin/http.h"
#include "fuzz/input.h"

namespace {

using meshnode::admin::RequestParser;
using meshnode::fuzz::require;
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
  require(over == pieces_over);
  require(!over || (at_once == in_pieces && same(whole, pieces)));
  require(whole.request().body.size() <= meshnode::admin::kMaxBody);
  require(whole.request().headers.size() <= meshnode::admin::kMaxHeaders);
  require(at_once != Progress::kDone || whole.request().path.front() == '/');
  if (at_once == Progress::kRefused) {
    const std::string head = head_of(whole.refusal());
    require(head.starts_with("HTTP/1.1 ") && head.ends_with("\r\n\r\n"));
    require(whole.refusal().status >= 400 && !whole.refusal().body.empty());
  }
  return 0;
}
