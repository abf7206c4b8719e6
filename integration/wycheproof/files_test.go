package wycheproof

import (
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"maps"
	"path"
	"slices"
	"testing"

	vectors "github.com/c2sp/wycheproof"

	"keyhole/keys"
)

// octets are bytes in hexadecimal.
type octets []byte

func (o *octets) UnmarshalText(text []byte) (err error) {
	*o, err = hex.DecodeString(string(text))
	return err
}

// text is a JWS or JWE. Some vectors are in the JSON serialisation.
type text string

func (s *text) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '{' {
		*s = text(raw)
		return nil
	}
	return json.Unmarshal(raw, (*string)(s))
}

// vector is a test of any file; group and file are what it stands in.
type vector struct {
	ID      int      `json:"tcId"`
	Comment string   `json:"comment"`
	Flags   []string `json:"flags"`
	Result  string   `json:"result"`

	Message    octets `json:"msg"`
	Signature  octets `json:"sig"`
	Key        octets `json:"key"`
	IV         octets `json:"iv"`
	AAD        octets `json:"aad"`
	Ciphertext octets `json:"ct"`
	Tag        octets `json:"tag"`
	Label      octets `json:"label"`
	JWS        text   `json:"jws"`
	JWE        text   `json:"jwe"`
	Plaintext  octets `json:"pt"`
}

// valid is what the vector says; what is "acceptable" Keyhole decides, see
// the exceptions.
func (v *vector) valid() bool { return v.Result != "invalid" }

type group struct {
	Comment string `json:"comment"`
	Type    string `json:"type"`

	KeySize int    `json:"keySize"`
	IVSize  int    `json:"ivSize"`
	TagSize int    `json:"tagSize"`
	SHA     string `json:"sha"`
	MGFSHA  string `json:"mgfSha"`
	Salt    int    `json:"sLen"`

	SPKI       octets          `json:"publicKeyDer"`
	PKCS8      octets          `json:"privateKeyPkcs8"`
	Private    json.RawMessage `json:"private"` // a JWK or a set of them
	Public     json.RawMessage `json:"public"`
	PrivateRSA struct {
		OtherPrimes []any `json:"otherPrimeInfos"`
	} `json:"privateKey"`

	Vectors []*vector `json:"tests"`
}

type file struct {
	Name   string
	Count  int      `json:"numberOfTests"`
	Groups []*group `json:"testGroups"`
}

func read(t *testing.T, name string) *file {
	t.Helper()
	text, err := fs.ReadFile(vectors.TestVectors, name)
	must(t, err)
	f := &file{Name: name}
	must(t, json.Unmarshal(text, f))
	return f
}

// suite says how a file is run.
type suite struct {
	run    func(*fixture, *testing.T, *file, suite) int // returns how many vectors it ran
	alg    keys.Algorithm
	format string
	// other: the vectors have other parameters than alg has, and nothing of
	// them may be accepted.
	other bool
}

// suites are the files whose algorithm Keyhole has.
var suites = map[string]suite{
	"aes_gcm_test.json": {run: (*fixture).gcm, alg: keys.A256GCM},

	"ecdsa_secp256r1_sha256_test.json":       {run: (*fixture).signatures, alg: keys.ES256, format: "der"},
	"ecdsa_secp384r1_sha384_test.json":       {run: (*fixture).signatures, alg: keys.ES384, format: "der"},
	"ecdsa_secp521r1_sha512_test.json":       {run: (*fixture).signatures, alg: keys.ES512, format: "der"},
	"ecdsa_secp256r1_sha256_p1363_test.json": {run: (*fixture).signatures, alg: keys.ES256},
	"ecdsa_secp384r1_sha384_p1363_test.json": {run: (*fixture).signatures, alg: keys.ES384},
	"ecdsa_secp521r1_sha512_p1363_test.json": {run: (*fixture).signatures, alg: keys.ES512},
	"ecdsa_secp256r1_sha512_test.json":       {run: (*fixture).signatures, alg: keys.ES256, format: "der", other: true},
	"ecdsa_secp256r1_sha512_p1363_test.json": {run: (*fixture).signatures, alg: keys.ES256, other: true},
	"ecdsa_secp384r1_sha256_test.json":       {run: (*fixture).signatures, alg: keys.ES384, format: "der", other: true},
	"ecdsa_secp384r1_sha512_test.json":       {run: (*fixture).signatures, alg: keys.ES384, format: "der", other: true},
	"ecdsa_secp384r1_sha512_p1363_test.json": {run: (*fixture).signatures, alg: keys.ES384, other: true},
	"ed25519_test.json":                      {run: (*fixture).signatures, alg: keys.EdDSA},

	"rsa_signature_2048_sha256_test.json":     {run: (*fixture).signatures, alg: keys.RS256},
	"rsa_signature_2048_sha384_test.json":     {run: (*fixture).signatures, alg: keys.RS384},
	"rsa_signature_2048_sha512_test.json":     {run: (*fixture).signatures, alg: keys.RS512},
	"rsa_signature_3072_sha256_test.json":     {run: (*fixture).signatures, alg: keys.RS256},
	"rsa_signature_3072_sha384_test.json":     {run: (*fixture).signatures, alg: keys.RS384},
	"rsa_signature_3072_sha512_test.json":     {run: (*fixture).signatures, alg: keys.RS512},
	"rsa_signature_4096_sha256_test.json":     {run: (*fixture).signatures, alg: keys.RS256},
	"rsa_signature_4096_sha384_test.json":     {run: (*fixture).signatures, alg: keys.RS384},
	"rsa_signature_4096_sha512_test.json":     {run: (*fixture).signatures, alg: keys.RS512},
	"rsa_signature_2048_sha224_test.json":     {run: (*fixture).signatures, alg: keys.RS256, other: true},
	"rsa_signature_2048_sha512_256_test.json": {run: (*fixture).signatures, alg: keys.RS256, other: true},
	"rsa_signature_2048_sha3_256_test.json":   {run: (*fixture).signatures, alg: keys.RS256, other: true},

	"rsa_pkcs1_2048_sig_gen_test.json": {run: (*fixture).made, alg: keys.RS256},
	"rsa_pkcs1_3072_sig_gen_test.json": {run: (*fixture).made, alg: keys.RS256},
	"rsa_pkcs1_4096_sig_gen_test.json": {run: (*fixture).made, alg: keys.RS256},

	"rsa_pss_2048_sha256_mgf1_32_test.json":              {run: (*fixture).signatures, alg: keys.PS256},
	"rsa_pss_3072_sha256_mgf1_32_test.json":              {run: (*fixture).signatures, alg: keys.PS256},
	"rsa_pss_4096_sha256_mgf1_32_test.json":              {run: (*fixture).signatures, alg: keys.PS256},
	"rsa_pss_2048_sha384_mgf1_48_test.json":              {run: (*fixture).signatures, alg: keys.PS384},
	"rsa_pss_4096_sha384_mgf1_48_test.json":              {run: (*fixture).signatures, alg: keys.PS384},
	"rsa_pss_4096_sha512_mgf1_64_test.json":              {run: (*fixture).signatures, alg: keys.PS512},
	"rsa_pss_2048_sha256_mgf1_0_test.json":               {run: (*fixture).signatures, alg: keys.PS256, other: true},
	"rsa_pss_2048_sha256_mgf1sha1_20_test.json":          {run: (*fixture).signatures, alg: keys.PS256, other: true},
	"rsa_pss_2048_sha1_mgf1_20_test.json":                {run: (*fixture).signatures, alg: keys.PS256, other: true},
	"rsa_pss_2048_sha512_256_mgf1_32_test.json":          {run: (*fixture).signatures, alg: keys.PS256, other: true},
	"rsa_pss_4096_sha512_mgf1_32_test.json":              {run: (*fixture).signatures, alg: keys.PS512, other: true},
	"rsa_pss_misc_test.json":                             {run: (*fixture).pssMixed},
	"rsa_pss_2048_sha1_mgf1_20_params_test.json":         {run: (*fixture).restricted, alg: keys.PS256},
	"rsa_pss_2048_sha256_mgf1_0_params_test.json":        {run: (*fixture).restricted, alg: keys.PS256},
	"rsa_pss_2048_sha256_mgf1_32_params_test.json":       {run: (*fixture).restricted, alg: keys.PS256},
	"rsa_pss_2048_sha512_mgf1sha256_32_params_test.json": {run: (*fixture).restricted, alg: keys.PS512},
	"rsa_pss_3072_sha256_mgf1_32_params_test.json":       {run: (*fixture).restricted, alg: keys.PS256},
	"rsa_pss_4096_sha512_mgf1_32_params_test.json":       {run: (*fixture).restricted, alg: keys.PS512},
	"rsa_pss_4096_sha512_mgf1_64_params_test.json":       {run: (*fixture).restricted, alg: keys.PS512},
	"rsa_pss_misc_params_test.json":                      {run: (*fixture).restricted, alg: keys.PS256},

	"rsa_oaep_2048_sha1_mgf1sha1_test.json":              {run: (*fixture).oaep, alg: keys.RSAOAEP},
	"rsa_oaep_2048_sha256_mgf1sha1_test.json":            {run: (*fixture).oaep, alg: keys.RSAOAEP},
	"rsa_oaep_2048_sha256_mgf1sha256_test.json":          {run: (*fixture).oaep, alg: keys.RSAOAEP},
	"rsa_oaep_3072_sha256_mgf1sha256_test.json":          {run: (*fixture).oaep, alg: keys.RSAOAEP},
	"rsa_oaep_4096_sha256_mgf1sha256_test.json":          {run: (*fixture).oaep, alg: keys.RSAOAEP},
	"rsa_oaep_misc_test.json":                            {run: (*fixture).oaep, alg: keys.RSAOAEP},
	"rsa_three_primes_oaep_2048_sha1_mgf1sha1_test.json": {run: (*fixture).oaep, alg: keys.RSAOAEP},
	"rsa_pkcs1_2048_test.json":                           {run: (*fixture).oaep, alg: keys.RSAOAEP, other: true},
	"rsa_pkcs1_3072_test.json":                           {run: (*fixture).oaep, alg: keys.RSAOAEP, other: true},
	"rsa_pkcs1_4096_test.json":                           {run: (*fixture).oaep, alg: keys.RSAOAEP, other: true},

	"hmac_sha256_test.json": {run: (*fixture).macs, alg: keys.HS256},
	"hmac_sha384_test.json": {run: (*fixture).macs, alg: keys.HS384},
	"hmac_sha512_test.json": {run: (*fixture).macs, alg: keys.HS512},

	"json_web_signature_test.json":  {run: (*fixture).jose},
	"json_web_crypto_test.json":     {run: (*fixture).jose},
	"json_web_encryption_test.json": {run: (*fixture).jose},
	"json_web_key_test.json":        {run: (*fixture).keySets},
}

// leftOut are the files of which Keyhole has nothing that could be wrong.
var leftOut = []struct{ files, because string }{
	{"a???cbc_*", "content encryption is A256GCM"},
	{"aead_*", "no AES-SIV"}, {"aegis*", "no AEGIS"}, {"aes_cbc_*", "no CBC"}, {"aes_ccm_*", "no CCM"}, {"aes_cmac_*", "no CMAC"},
	{"aes_eax_*", "no EAX"}, {"aes_ff1_*", "no format-preserving encryption"}, {"aes_gcm_siv_*", "no GCM-SIV"}, {"aes_gmac_*", "no GMAC"},
	{"aes_kwp_*", "data keys are wrapped by AES-GCM or RSA-OAEP"}, {"aes_wrap_*", "data keys are wrapped by AES-GCM or RSA-OAEP"},
	{"aes_siv_*", "no AES-SIV"}, {"aes_xts_*", "no XTS"}, {"aria_*", "no ARIA"}, {"ascon*", "no Ascon"}, {"bls_*", "no BLS"},
	{"c2sp_chunked_*", "no chunked encryption"}, {"camellia_*", "no Camellia"}, {"chacha20_*", "no ChaCha20-Poly1305"},
	{"xchacha20_*", "no XChaCha20-Poly1305"}, {"dsa_*", "no DSA"}, {"ec_prime_order_*", "the curves are those of crypto/elliptic"},
	{"ecdh_*", "no key agreement"}, {"x25519_*", "no key agreement"}, {"x448_*", "no key agreement"},
	{"ecdsa_brainpool*", "a key is on P-256, P-384 or P-521"}, {"ecdsa_secp1*", "a key is on P-256, P-384 or P-521"},
	{"ecdsa_secp224*", "a key is on P-256, P-384 or P-521"}, {"ecdsa_secp256k1_*", "a key is on P-256, P-384 or P-521"},
	{"ecdsa_secp???r1_sha3_*", "no SHA-3"}, {"ecdsa_secp???r1_shake*", "no SHAKE"}, {"ed448_*", "no Ed448"}, {"hkdf_*", "no HKDF"},
	{"hmac_sha1_*", "no HMAC with SHA-1"}, {"hmac_sha224_*", "no SHA-224"}, {"hmac_sha3_*", "no SHA-3"}, {"hmac_sha512_2??_*", "no SHA-512/t"},
	{"hmac_sm3_*", "no SM3"}, {"kmac*", "no KMAC"}, {"mldsa_*", "no ML-DSA"}, {"mlkem_*", "no ML-KEM"}, {"morus*", "no MORUS"},
	{"pbes2_*", "no passwords"}, {"pbkdf2_*", "no passwords"}, {"primality_*", "the token makes the primes"},
	{"rsa_oaep_2048_sha224_*", "OAEP has SHA-1 or SHA-256"}, {"rsa_oaep_2048_sha384_*", "OAEP has SHA-1 or SHA-256"},
	{"rsa_oaep_?0??_sha512_*", "OAEP has SHA-1 or SHA-256"}, {"rsa_oaep_3072_sha512_*", "OAEP has SHA-1 or SHA-256"},
	{"rsa_oaep_3072_sha256_mgf1sha1_*", "OAEP and MGF1 have one hash; the 2048 bits stand for all sizes"},
	{"rsa_oaep_4096_sha256_mgf1sha1_*", "OAEP and MGF1 have one hash; the 2048 bits stand for all sizes"},
	{"rsa_three_primes_oaep_3072_*", "OAEP has SHA-1 or SHA-256"}, {"rsa_three_primes_oaep_4096_*", "the token of the tests has OAEP with SHA-1 only"},
	{"rsa_pkcs1_1024_*", "RSA keys have 2048, 3072 or 4096 bits"}, {"rsa_pkcs1_1536_*", "RSA keys have 2048, 3072 or 4096 bits"},
	{"rsa_signature_8192_*", "RSA keys have 2048, 3072 or 4096 bits"}, {"rsa_signature_2048_sha3_224_*", "no SHA-3; sha3_256 stands for it"},
	{"rsa_signature_2048_sha3_384_*", "no SHA-3; sha3_256 stands for it"}, {"rsa_signature_2048_sha3_512_*", "no SHA-3; sha3_256 stands for it"},
	{"rsa_signature_3072_sha3_*", "no SHA-3; sha3_256 stands for it"}, {"rsa_signature_2048_sha512_224_*", "no SHA-512/t; sha512_256 stands for it"},
	{"rsa_signature_?0??_sha512_256_*", "no SHA-512/t; 2048 bits stand for it"},
	{"rsa_pss_*_shake*", "no SHAKE"}, {"rsa_pss_2048_sha512_224_*", "no SHA-512/t; sha512_256 stands for it"},
	{"seed_*", "no SEED"}, {"siphash*", "no SipHash"}, {"sm4_*", "no SM4"}, {"vmac_*", "no VMAC"},
}

// TestVectors runs every vector of every suite.
func TestVectors(t *testing.T) {
	fx := newFixture(t)
	total := 0
	for _, name := range slices.Sorted(maps.Keys(suites)) {
		t.Run(name, func(t *testing.T) {
			f, s := read(t, name), suites[name]
			held := 0
			for _, g := range f.Groups {
				held += len(g.Vectors)
			}
			if ran := s.run(fx, t, f, s); ran != f.Count || ran != held || ran == 0 {
				t.Errorf("%d vectors were run; the file holds %d and says %d", ran, held, f.Count)
			}
			fx.forget(t)
			total += held
		})
	}
	for _, e := range exceptions {
		if !e.met {
			t.Errorf("the exception %s %v (%s) does not occur: take it away", e.file, e.ids, e.because)
		}
	}
	t.Logf("%d vectors in %d files", total, len(suites))
}

// Every file of the module is run or left out on purpose, and nothing is
// left out that is not there.
func TestEveryFileIsDecided(t *testing.T) {
	names, err := fs.Glob(vectors.TestVectors, "*.json")
	must(t, err)
	used := map[string]bool{}
	for _, name := range names {
		_, run := suites[name]
		out := ""
		for _, l := range leftOut {
			if ok, err := path.Match(l.files, name); err != nil {
				t.Fatal(err)
			} else if ok && !run {
				out, used[l.files] = l.because, true
			}
		}
		if !run && out == "" {
			t.Errorf("%s is neither run nor left out", name)
		}
		used[name] = true
	}
	for _, l := range leftOut {
		if !used[l.files] {
			t.Errorf("nothing is left out by %s", l.files)
		}
	}
	for name := range suites {
		if !used[name] {
			t.Errorf("there is no file %s", name)
		}
	}
	if len(names) < 300 {
		t.Errorf("the module holds %d files", len(names))
	}
}
