// Certificates, chains, keys and roots. The first octet says how they come: 1, made of the input's
// choices and signed by a root that is trusted; 2, as DER that this root signs once more; 3, as PEM
// texts of a credential; else as DER. Every refusal has a reason, what is accepted holds together.

#include <openssl/evp.h>

#include "fuzz/input.h"
#include "tls/certificate.h"
#include "tls/certificates.h"
#include "tls/credential_parts.h"

using namespace meshnode;
using namespace meshnode::tls;
using namespace meshnode::tls::test;
using fuzz::Input;
using fuzz::require;

namespace {

const Issued& of_shape(std::size_t which) {
  const auto authority = [](const std::string& name, const Issued* issuer, Key key = Key::kP256) {
    Shape shape = authority_shape(name, issuer);
    shape.key = key;
    return shape;
  };
  static const std::vector<Issued> all = [&] {
    std::vector<Issued> made;
    made.reserve(16);
    const Issued& root = root_objects();
    made.push_back(issue(authority("middle", &root)));
    Shape stale = authority("stale", &root);
    stale.not_after = kNow - 1h;
    made.push_back(issue(stale));
    Shape early = authority("early", &root);
    early.not_before = kNow + 1h;
    made.push_back(issue(early));
    Shape none = authority("none", &root);
    none.constraints = "critical,CA:FALSE";
    made.push_back(issue(none));
    made.push_back(issue(authority("weak", &root, Key::kRsa1024)));
    made.push_back(issue(authority("curve", &root, Key::kP521)));
    made.push_back(issue(authority("stranger", nullptr)));
    made.push_back(issue(authority("deep1", &made[0])));
    made.push_back(issue(authority("deep2", &made[7])));
    made.push_back(issue(authority("deep3", &made[8])));
    made.push_back(issue(authority("deep4", &made[9])));
    Shape usage = authority("usage", &root);
    usage.usage = "critical,digitalSignature";
    made.push_back(issue(usage));
    return made;
  }();
  return all[which % all.size()];
}

X509_STORE* roots() {
  static X509_STORE* const store = [] {
    X509_STORE* made = X509_STORE_new();
    must(X509_STORE_add_cert(made, root_objects().certificate.get()));
    return made;
  }();
  return store;
}

void check_refusal(const std::optional<Refusal>& refusal) {
  require(!refusal || (!refusal->reason.empty() && refusal->alert != 0));
}

void inspect(const CertificatePtr& leaf, const std::vector<std::size_t>& others = {}) {
  const Result<SpiffeId> id = identity_of(leaf.get());
  require(id || !id.error().message.empty());
  if (id) {
    const auto again = SpiffeId::parse(id->uri());
    require(again && *again == *id);
  }
  for (const Role role : {Role::kClient, Role::kServer, Role::kBoth}) {
    const auto refusal = check_leaf(leaf.get(), role, kNow);
    check_refusal(refusal);
    const Validity validity = validity_of(leaf.get());
    require(refusal || (validity.not_before <= kNow && kNow < validity.not_after));
  }
  // Both are needed for either.
  require(!check_leaf(leaf.get(), Role::kBoth, kNow) ==
          (!check_leaf(leaf.get(), Role::kClient, kNow) &&
           !check_leaf(leaf.get(), Role::kServer, kNow)));
  require(name_text(X509_get_subject_name(leaf.get())).size() < 2048);
  require(!serial_text(leaf.get()).empty());
  std::vector<CertificatePtr> chain;
  chain.push_back(bssl::UpRef(leaf));
  for (const std::size_t which : others) {
    chain.push_back(bssl::UpRef(of_shape(which).certificate));
  }
  check_refusal(check_path(roots(), chain, kNow));
  const Result<std::string> pem = write_certificate(leaf.get());
  if (!pem) return;
  const auto read = read_certificates(*pem, "chain", 1);
  require(!read || X509_cmp(read->front().get(), leaf.get()) == 0);
  ERR_clear_error();  // comparing reads extensions
}

void sign(X509* certificate, const Issued& issuer) {
  must(X509_set_issuer_name(certificate, X509_get_subject_name(issuer.certificate.get())));
  if (!X509_sign(certificate, issuer.key.get(), EVP_sha256())) ERR_clear_error();
}

/// Extensions that we read or that path building reads, with any content.
void add_raw_extension(Input& in, X509* certificate) {
  const int nid =
      in.one_of({NID_subject_alt_name, NID_basic_constraints, NID_key_usage, NID_ext_key_usage,
                 NID_name_constraints, NID_certificate_policies, NID_authority_key_identifier,
                 NID_subject_key_identifier, NID_crl_distribution_points, NID_inhibit_any_policy});
  const int critical = in.flag() ? 1 : 0;
  const std::string content = in.text();
  bssl::UniquePtr<ASN1_OCTET_STRING> octets(ASN1_OCTET_STRING_new());
  must(ASN1_OCTET_STRING_set(octets.get(), reinterpret_cast<const std::uint8_t*>(content.data()),
                             static_cast<int>(content.size())));
  bssl::UniquePtr<X509_EXTENSION> extension(
      X509_EXTENSION_create_by_NID(nullptr, nid, critical, octets.get()));
  must(extension && X509_add_ext(certificate, extension.get(), -1));
}

Shape make_shape(Input& in) {
  Shape shape;
  const std::uint8_t what = in.octet();
  if ((what & 1) != 0) shape.uris.push_back(in.text());
  if ((what & 2) != 0) shape.uris.clear();
  if ((what & 4) != 0) shape.dns.push_back(in.text());
  shape.second_san = (what & 8) != 0;
  shape.constraints = in.one_of<std::string>({shape.constraints, "", "critical,CA:TRUE"});
  shape.usage =
      in.one_of<std::string>({shape.usage, "", "keyEncipherment", "digitalSignature,keyCertSign"});
  shape.extended =
      in.one_of<std::string>({shape.extended, "", "serverAuth", "clientAuth", "codeSigning"});
  shape.not_before += in.one_of({0h, 2h, -24h * 365 * 60});
  shape.not_after += in.one_of({0h, -26h, 24h * 365 * 200, 24h * 365 * 7000});
  shape.subject = in.text();
  return shape;
}

/// `shape` with one of few keys, which are made once: RSA takes its time.
CertificatePtr make_leaf(Input& in, const Shape& shape, const Issued& issuer) {
  static const std::vector<Key> kKinds = {Key::kP256,    Key::kP384,    Key::kP521,
                                          Key::kEd25519, Key::kRsa1024, Key::kRsa2048};
  static const std::vector<Issued> keys = [] {
    std::vector<Issued> made;
    for (const Key kind : kKinds) made.push_back({nullptr, make_key(kind)});
    return made;
  }();
  Issued leaf = issue(shape);
  must(X509_set_pubkey(leaf.certificate.get(), keys[in.up_to(kKinds.size() - 1)].key.get()));
  for (std::size_t i = in.up_to(2); i > 0; --i) add_raw_extension(in, leaf.certificate.get());
  sign(leaf.certificate.get(), issuer);
  // As a peer would send it: what is cached of the one just made must not matter.
  const std::string der = leaf.der();
  return parse_certificate(as_bytes(der));
}

void try_made(Input& in) {
  const Shape shape = make_shape(in);
  const bool direct = in.flag();
  std::vector<std::size_t> others;
  for (std::size_t i = in.up_to(6); i > 0; --i) others.push_back(in.octet());
  const Issued& issuer = direct || others.empty() ? root_objects() : of_shape(others.front());
  // BoringSSL does not build what its reader refuses.
  const bool fits =
      shape.subject.size() <= 64 && std::all_of(shape.subject.begin(), shape.subject.end(),
                                                [](char c) { return c >= ' ' && c <= '~'; });
  Shape used = shape;
  if (!fits || shape.subject.empty()) used.subject = "leaf";
  if (const CertificatePtr leaf = make_leaf(in, used, issuer)) inspect(leaf, others);
}

void try_der(Bytes der, bool sign_again) {
  CertificatePtr leaf = parse_certificate(der);
  const Result<SpiffeId> id = certificate_identity(der);
  require(id || !id.error().message.empty());
  if (!leaf) return;
  require(id.has_value() == identity_of(leaf.get()).has_value());
  if (sign_again) sign(leaf.get(), root_objects());
  inspect(leaf);
}

std::string pem_block(std::string_view label, std::string_view body) {
  return "-----BEGIN " + std::string(label) + "-----\n" + std::string(body) + "\n-----END " +
         std::string(label) + "-----\n";
}

std::string sec1_pem(const EVP_PKEY* key) {
  bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  must(PEM_write_bio_ECPrivateKey(bio.get(), EVP_PKEY_get0_EC_KEY(key), nullptr, nullptr, 0,
                                  nullptr, nullptr));
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;
  must(BIO_mem_contents(bio.get(), &data, &size));
  return std::string(as_text({data, size}));
}

/// Whole and broken pieces of what operators put into files; the first three belong together.
const std::vector<std::string>& pieces() {
  static const std::vector<std::string> all = [] {
    Shape shape;
    shape.issuer = &root_objects();
    const Issued leaf = issue(shape);
    const auto of_key = [&](Key key) {
      Shape other = shape;
      other.key = key;
      return issue(other);
    };
    const Issued edwards = of_key(Key::kEd25519);
    const Issued rsa = of_key(Key::kRsa2048);
    Shape deep = shape;
    deep.issuer = &of_shape(0);
    Shape nameless = shape;
    nameless.uris.clear();
    Shape stale = shape;
    stale.not_after = kNow - 1h;
    Shape alone;
    std::string long_roots;
    for (std::size_t i = 0; i <= kMaxRoots; ++i) long_roots += root().certificate;
    return std::vector<std::string>{
        leaf.pem(),
        leaf.key_pem(),
        root().certificate,
        sec1_pem(leaf.key.get()),
        issue(deep).pem(),
        of_shape(0).pem(),
        of_shape(6).pem(),
        edwards.pem(),
        edwards.key_pem(),
        rsa.pem(),
        rsa.key_pem(),
        issue(nameless).pem(),
        issue(stale).pem(),
        issue(alone).pem(),
        of_shape(0).key_pem(),
        long_roots,
        pem_block("CERTIFICATE", "AAAA"),
        pem_block("PRIVATE KEY", "AAAA"),
        pem_block("EC PRIVATE KEY", "AAAA"),
        pem_block("RSA PRIVATE KEY", "AAAA"),
        pem_block("ENCRYPTED PRIVATE KEY", "AAAA"),
        pem_block("EC PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: X,00\n\nAAAA"),
        "# words\n",
        ""};
  }();
  return all;
}

std::string pem_text(Input& in, std::size_t usual) {
  const std::uint8_t choice = in.octet();
  if (choice == 0) return pieces()[usual];
  if (choice == 255) return in.text();
  std::string text;
  for (std::size_t i = 1 + choice % 7U; i > 0; --i) text += pieces()[in.octet() % pieces().size()];
  if ((choice & 0x80U) != 0 && !text.empty()) {
    text[in.word() % text.size()] = static_cast<char>(in.octet());
  }
  return text;
}

void try_pem(Input& in) {
  const std::string chain = pem_text(in, 0);
  const std::string key = pem_text(in, 1);
  const std::string trusted = pem_text(in, 2);
  const auto own = read_private_key(key);
  require(own || !own.error().message.empty());
  if (own) {
    const auto written = write_private_key(own->get());
    require(written && read_private_key(*written).has_value());
  }
  const auto credential = Credential::from_pem(chain, key, trusted, kNow);
  if (!credential) {
    require(!credential.error().message.empty());
    return;
  }
  const Credential& made = **credential;
  require(made.not_before() <= kNow && kNow < made.not_after() && !made.serial().empty());
  require(own.has_value());
  const auto again =
      Credential::with_signer(chain, std::make_unique<KeySigner>(bssl::UpRef(*own)), trusted, kNow);
  require(again && (*again)->identity() == made.identity());
  const auto algorithm = in.one_of<std::uint16_t>(
      {SSL_SIGN_ECDSA_SECP256R1_SHA256, SSL_SIGN_RSA_PSS_RSAE_SHA256, SSL_SIGN_ED25519, 0, 0xffff});
  static_cast<void>(stored(made).signer().sign(algorithm, as_bytes(chain), [](auto signature) {
    require(signature ? !signature->empty() : !signature.error().message.empty());
  }));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  switch (in.octet()) {
    case 1:
      try_made(in);
      break;
    case 2:
      try_der(in.rest(), true);
      break;
    case 3:
      try_pem(in);
      break;
    default:
      try_der({data, size}, false);
  }
  require(ERR_peek_error() == 0);  // nothing is left for the next session of the thread
  return 0;
}
