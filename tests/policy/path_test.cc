#include "policy/path.h"

#include <catch2/catch.hpp>

using namespace meshnode::policy;

TEST_CASE("a path is compared as RFC 3986 has it, not as it was spelt") {
  struct Row {
    std::string spelt, is;
  };
  const auto row = GENERATE(
      Row{"/", "/"}, Row{"/a/b", "/a/b"}, Row{"/a/./b", "/a/b"}, Row{"/a/../b", "/b"},
      Row{"/../../b", "/b"}, Row{"/a/b/..", "/a/"}, Row{"/a/b/.", "/a/b/"}, Row{"/a//b", "/a//b"},
      Row{"/%61dmin", "/admin"}, Row{"/a%2fb", "/a%2Fb"}, Row{"/%2e%2E/x", "/x"},
      Row{"/a\\..\\b", "/b"}, Row{"/a%5cb", "/a%5Cb"}, Row{"/a%2", "/a%2"}, Row{"/a%zz", "/a%zz"},
      Row{"/a/../b?x=/../c", "/b?x=/../c"}, Row{"*", "*"}, Row{"", ""});
  CAPTURE(row.spelt);
  CHECK(normalise_path(row.spelt) == row.is);
}
