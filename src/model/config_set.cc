#include "model/config_set.h"

#include <fmt/format.h>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include "model/decode.h"

namespace meshnode::model {
namespace {

constexpr int kSavedVersion = 1;
constexpr std::string_view kStays = "; the last good version stays in force";

Rejection rejection_of(const std::string& path, const TextError& error) {
  Rejection rejection;
  rejection.origin = {path, error.at.line, error.at.column};
  rejection.message = error.reason;
  return rejection;
}

Rejection rejection_of(const std::string& path, const TextError& error,
                       const std::optional<ResourceKey>& key) {
  Rejection rejection = rejection_of(path, error);
  if (key) {
    rejection.kind = key->kind;
    rejection.ns = key->ns;
    rejection.name = key->name;
  }
  return rejection;
}

}  // namespace

std::string Rejection::text() const {
  return origin.line == 0 ? fmt::format("{}: {}", origin.file, message)
                          : fmt::format("{}: {}", origin.text(), message);
}

ConfigSet::File& ConfigSet::file(const std::string& path) {
  const auto [it, fresh] = files_.try_emplace(path);
  if (fresh) {
    if (auto saved = saved_.extract(path)) it->second.good = std::move(saved.mapped());
  }
  it->second.rejected.clear();
  dirty_ = true;
  return it->second;
}

void ConfigSet::reject(File& file, Rejection rejection) {
  if (file.rejected.size() < kMaxRejectionsPerFile) file.rejected.push_back(std::move(rejection));
}

void ConfigSet::update(const std::string& path, std::string_view text) {
  File& file = this->file(path);
  const auto documents = parse_yaml(text);
  if (!documents) {
    Rejection rejection = rejection_of(path, documents.error());
    if (!file.good.empty()) rejection.message += kStays;
    reject(file, std::move(rejection));
    return;
  }
  GoodByKey next;
  std::set<ResourceKey> seen;
  bool unnamed = false;
  for (const Document& document : *documents) {
    Decoded decoded = decode(document.root, path);
    unnamed = unnamed || !decoded.key;
    const bool repeated = decoded.key && !seen.insert(*decoded.key).second;
    if (decoded.resource && !repeated) {
      const std::string_view source = text.substr(document.begin, document.end - document.begin);
      next[*decoded.key] = {std::make_shared<const Resource>(std::move(*decoded.resource)),
                            std::string(source)};
      continue;
    }
    if (decoded.resource) {
      const auto first = next.find(*decoded.key);
      if (first != next.end() && first->second.resource->same_content(*decoded.resource)) continue;
      decoded.errors.push_back({document.root.at,
                                "is declared twice in this file with different "
                                "content; remove one of them"});
    }
    const auto old = decoded.key ? file.good.find(*decoded.key) : file.good.end();
    const bool keeps = old != file.good.end() && !repeated;
    if (keeps) next.insert(*old);
    for (const TextError& error : decoded.errors) {
      Rejection rejection = rejection_of(path, error, decoded.key);
      if (keeps) rejection.message += kStays;
      reject(file, std::move(rejection));
    }
  }
  // A document without a readable name may be any of those that are missing now: keep them.
  if (unnamed) next.insert(file.good.begin(), file.good.end());
  file.good = std::move(next);
}

void ConfigSet::update_failed(const std::string& path, const std::string& reason) {
  File& file = this->file(path);
  Rejection rejection;
  rejection.origin.file = path;
  rejection.message = reason;
  if (!file.good.empty()) rejection.message += kStays;
  reject(file, std::move(rejection));
}

std::vector<std::string> ConfigSet::adopt_saved() {
  std::vector<std::string> adopted;
  for (auto& [path, good] : saved_) {
    const auto [it, fresh] = files_.try_emplace(path);
    if (!fresh) continue;
    it->second.good = std::move(good);
    adopted.push_back(path);
    dirty_ = true;
  }
  saved_.clear();
  return adopted;
}

void ConfigSet::remove(const std::string& path) {
  files_.erase(path);
  saved_.erase(path);
  dirty_ = true;
}

void ConfigSet::admit(const std::string& path, const ResourceKey& key, const Good& good,
                      std::map<ResourceKey, std::shared_ptr<const Resource>>& in_force) {
  Rejection rejection;
  rejection.origin = good.resource->origin;
  rejection.origin.file = path;
  rejection.kind = key.kind;
  rejection.ns = key.ns;
  rejection.name = key.name;
  if (const auto other = in_force.find(key); other != in_force.end()) {
    if (other->second->same_content(*good.resource)) return;
    rejection.message = fmt::format("{} {} is declared differently at {}, which wins; remove one",
                                    key.kind, key.name, other->second->origin.text());
  } else if (const auto node = in_force.lower_bound({"Node", "", ""});
             key.kind == "Node" && node != in_force.end() && node->first.kind == "Node") {
    rejection.message = fmt::format("this host has a Node already, at {}, which wins; remove one",
                                    node->second->origin.text());
  } else if (in_force.size() >= kMaxResources) {
    rejection.message = fmt::format("more than {} resources; this one is left out", kMaxResources);
  } else {
    in_force.emplace(key, good.resource);
    return;
  }
  rejected_.push_back(std::move(rejection));
}

void ConfigSet::resolve() {
  if (!dirty_) return;
  dirty_ = false;
  accepted_.clear();
  rejected_.clear();
  std::map<ResourceKey, std::shared_ptr<const Resource>> in_force;
  for (const auto& entry : files_) {
    const File& file = entry.second;
    rejected_.insert(rejected_.end(), file.rejected.begin(), file.rejected.end());
    const std::size_t before = rejected_.size();
    for (const auto& good : file.good) admit(entry.first, good.first, good.second, in_force);
    if (rejected_.size() > before + kMaxRejectionsPerFile) {
      rejected_.resize(before + kMaxRejectionsPerFile);
    }
  }
  accepted_.reserve(in_force.size());
  for (auto& entry : in_force) accepted_.push_back(std::move(entry.second));
  std::stable_sort(rejected_.begin(), rejected_.end(), [](const Rejection& a, const Rejection& b) {
    return std::tie(a.origin.file, a.origin.line, a.origin.column) <
           std::tie(b.origin.file, b.origin.line, b.origin.column);
  });
}

const Resources& ConfigSet::accepted() {
  resolve();
  return accepted_;
}

const std::vector<Rejection>& ConfigSet::rejected() {
  resolve();
  return rejected_;
}

std::string ConfigSet::save() const {
  nlohmann::json files = nlohmann::json::array();
  for (const auto& entry : files_) {
    nlohmann::json documents = nlohmann::json::array();
    for (const auto& good : entry.second.good) {
      const Origin& origin = good.second.resource->origin;
      documents.push_back(
          {{"line", origin.line}, {"column", origin.column}, {"text", good.second.text}});
    }
    if (!documents.empty()) {
      files.push_back({{"path", entry.first}, {"documents", std::move(documents)}});
    }
  }
  return nlohmann::json{{"version", kSavedVersion}, {"files", std::move(files)}}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace);
}

namespace {

/// The resource of one saved document, if it still decodes.
std::optional<Resource> revive(const std::string& path, const nlohmann::json& document,
                               const std::string& text) {
  const auto parsed = parse_yaml(text);
  if (!parsed || parsed->size() != 1) return {};
  Decoded decoded = decode(parsed->front().root, path);
  if (decoded.resource) {
    decoded.resource->origin.line = document.value("line", 0U);
    decoded.resource->origin.column = document.value("column", 0U);
  }
  return std::move(decoded.resource);
}

}  // namespace

Status ConfigSet::restore(std::string_view saved) {
  std::map<std::string, GoodByKey> files;
  try {
    const nlohmann::json json = nlohmann::json::parse(saved);
    if (json.at("version").get<int>() != kSavedVersion) {
      return fail(ErrorCode::kInvalid, "saved configuration: unknown version");
    }
    for (const nlohmann::json& file : json.at("files")) {
      const auto path = file.at("path").get<std::string>();
      for (const nlohmann::json& document : file.at("documents")) {
        auto text = document.at("text").get<std::string>();
        auto resource = revive(path, document, text);
        if (!resource) continue;
        const ResourceKey key{std::string(resource->kind()), resource->metadata.ns,
                              resource->metadata.name};
        files[path][key] = {std::make_shared<const Resource>(std::move(*resource)),
                            std::move(text)};
      }
    }
  } catch (const nlohmann::json::exception& error) {
    return fail(ErrorCode::kInvalid, fmt::format("saved configuration: {}", error.what()));
  }
  saved_ = std::move(files);
  return {};
}

std::vector<Rejection> validate(const std::string& path, std::string_view text) {
  std::vector<Rejection> out;
  const auto documents = parse_yaml(text);
  if (!documents) {
    out.push_back(rejection_of(path, documents.error()));
    return out;
  }
  for (const Document& document : *documents) {
    const Decoded decoded = decode(document.root, path);
    for (const TextError& error : decoded.errors) {
      out.push_back(rejection_of(path, error, decoded.key));
    }
  }
  return out;
}

}  // namespace meshnode::model
