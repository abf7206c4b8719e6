package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyhole/gateway/api"
)

// signing algorithms, with what openssl needs to check a signature: the
// arguments in front of "-signature SIG FILE". EdDSA takes another command,
// and a MAC has no public key.
var signing = []struct {
	algorithm string
	bits      int
	openssl   []string
}{
	{"ES256", 256, []string{"-sha256"}},
	{"ES384", 384, []string{"-sha384"}},
	{"ES512", 521, []string{"-sha512"}},
	{"EdDSA", 256, nil},
	{"RS256", 2048, []string{"-sha256"}},
	{"RS384", 3072, []string{"-sha384"}},
	{"RS512", 2048, []string{"-sha512"}},
	{"PS256", 2048, []string{"-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"}},
	{"PS384", 2048, []string{"-sha384", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:48"}},
	{"PS512", 4096, []string{"-sha512", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:64"}},
}

// Signatures of every algorithm, made through the command line, hold for
// openssl (raw and ASN.1), for Debian's jose and for go-jose (JWS, attached
// and detached). A changed text, a changed signature and another key's
// signature do not.
func TestSignaturesHoldForOthers(t *testing.T) {
	g := newGateway(t)
	others := map[string]string{}
	for _, tt := range signing {
		name := strings.ToLower(tt.algorithm)
		g.keyhole(admin, "key", "create", name, "--algorithm", tt.algorithm, "--bits", strconv.Itoa(tt.bits))
		if tt.bits <= 2048 && tt.algorithm != "RS512" && tt.algorithm != "PS384" { // RSA keys take their time
			g.keyhole(admin, "key", "create", name+"-other", "--algorithm", tt.algorithm, "--bits", strconv.Itoa(tt.bits))
			others[tt.algorithm] = name + "-other"
		}
	}
	for _, tt := range signing {
		t.Run(tt.algorithm, func(t *testing.T) {
			s := newSample(t, g, strings.ToLower(tt.algorithm), others[tt.algorithm])
			t.Run("openssl", func(t *testing.T) { s.checkOpenssl(t, tt.openssl) })
			t.Run("go-jose", func(t *testing.T) { s.checkGoJOSE(t, tt.algorithm) })
			if tt.algorithm != "EdDSA" { // which Debian's jose does not know
				t.Run("jose", func(t *testing.T) { s.checkJose(t) })
			}
		})
	}
}

const text = "pay 100 EUR to Alice\n"

// sample is a text with its signatures by one key and by another.
type sample struct {
	dir              string
	file, changed    string // the text, and one that is a little different
	signature, other string // DER where there is a choice, by the key and by another ("": none)
	pem, jwks        string // of the key
	jws, detached    string // by the key
}

func newSample(t *testing.T, g *gateway, key, other string) *sample {
	t.Helper()
	s := &sample{dir: t.TempDir()}
	at := func(name string) string { return filepath.Join(s.dir, name) }
	s.file, s.changed = write(t, at("text"), text), write(t, at("changed"), strings.Replace(text, "100", "900", 1))
	s.signature = at("signature")
	g.keyhole(agent, "sign", key, s.file, "--format", "der", "-O", s.signature)
	if other != "" {
		s.other = at("other")
		g.keyhole(agent, "sign", other, s.file, "--format", "der", "-O", s.other)
	}
	s.pem = write(t, at("public.pem"), g.keyhole(agent, "key", "public", key))
	s.jwks = write(t, at("jwks.json"), g.keyhole(agent, "jwks", key))
	s.jws = strings.TrimSpace(g.keyhole(agent, "sign", key, s.file, "--format", "jws"))
	s.detached = strings.TrimSpace(g.keyhole(agent, "sign", key, s.file, "--format", "jws-detached"))
	return s
}

func (s *sample) checkOpenssl(t *testing.T, args []string) {
	verify := func(file, signature string) (bool, string) {
		if args == nil {
			return tool(t, "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", s.pem, "-rawin", "-in", file, "-sigfile", signature)
		}
		return tool(t, "openssl", append(append([]string{"dgst"}, args...), "-verify", s.pem, "-signature", signature, file)...)
	}
	if ok, out := verify(s.file, s.signature); !ok {
		t.Errorf("the signature is refused: %s", out)
	}
	if ok, out := verify(s.changed, s.signature); ok {
		t.Errorf("a changed text passes: %s", out)
	}
	if s.other != "" {
		if ok, out := verify(s.file, s.other); ok {
			t.Errorf("another key's signature passes: %s", out)
		}
	}
	sig, err := os.ReadFile(s.signature)
	must(t, err)
	sig[len(sig)-1] ^= 1
	if ok, out := verify(s.file, write(t, filepath.Join(s.dir, "flipped"), string(sig))); ok {
		t.Errorf("a changed signature passes: %s", out)
	}
}

func (s *sample) checkGoJOSE(t *testing.T, algorithm string) {
	jwks, err := os.ReadFile(s.jwks)
	must(t, err)
	var set jose.JSONWebKeySet
	must(t, json.Unmarshal(jwks, &set))
	allowed := []jose.SignatureAlgorithm{jose.SignatureAlgorithm(algorithm)}
	sig, err := jose.ParseSignedCompact(s.jws, allowed)
	must(t, err)
	kid := sig.Signatures[0].Protected.KeyID
	if len(set.Key(kid)) != 1 {
		t.Fatalf("kid %q: %d keys of that name in %s", kid, len(set.Key(kid)), jwks)
	}
	key := set.Key(kid)[0]
	if key.Algorithm != algorithm || key.Use != "sig" {
		t.Errorf("the published key is for %s, %s", key.Algorithm, key.Use)
	}
	if got, err := sig.Verify(key.Key); err != nil || string(got) != text {
		t.Errorf("verified %q, %v", got, err)
	}
	bare, err := jose.ParseSignedCompact(s.detached, allowed)
	must(t, err)
	if err := bare.DetachedVerify([]byte(text), key.Key); err != nil {
		t.Errorf("detached: %v", err)
	}
	if err := bare.DetachedVerify([]byte(text+"x"), key.Key); err == nil {
		t.Error("detached: another text passes")
	}
	bad, err := jose.ParseSignedCompact(tampered(s.jws), allowed)
	must(t, err)
	if _, err := bad.Verify(key.Key); err == nil {
		t.Error("a changed text passes")
	}
}

func (s *sample) checkJose(t *testing.T) {
	at := func(name, jws string) string { return write(t, filepath.Join(s.dir, name), jws) }
	if ok, out := tool(t, "jose", "jws", "ver", "-i", at("jws", s.jws), "-k", s.jwks, "-O", "-"); !ok || out != text {
		t.Errorf("the JWS is refused: %s", out)
	}
	if ok, out := tool(t, "jose", "jws", "ver", "-i", at("detached", s.detached), "-I", s.file, "-k", s.jwks); !ok {
		t.Errorf("the detached JWS is refused: %s", out)
	}
	if ok, out := tool(t, "jose", "jws", "ver", "-i", at("detached", s.detached), "-I", s.changed, "-k", s.jwks); ok {
		t.Errorf("a changed text passes: %s", out)
	}
	if ok, out := tool(t, "jose", "jws", "ver", "-i", at("bad", tampered(s.jws)), "-k", s.jwks); ok {
		t.Errorf("a changed payload passes: %s", out)
	}
}

// tampered is a JWS with another first letter of its payload.
func tampered(jws string) string {
	parts := strings.Split(jws, ".")
	parts[1] = "Q" + parts[1][1:]
	return strings.Join(parts, ".")
}

// A MAC has no public key: pkcs11-tool, which computes it on the same token
// without Keyhole, comes to the same bytes.
func TestMACsAreTheTokens(t *testing.T) {
	g := newGateway(t)
	for _, tt := range []struct{ algorithm, mechanism string }{
		{"HS256", "SHA256-HMAC"}, {"HS384", "SHA384-HMAC"}, {"HS512", "SHA512-HMAC"},
	} {
		t.Run(tt.algorithm, func(t *testing.T) {
			name := strings.ToLower(tt.algorithm)
			k := g.create(name, tt.algorithm, 0)
			dir := t.TempDir()
			file, mac, same := write(t, filepath.Join(dir, "text"), text), filepath.Join(dir, "mac"), filepath.Join(dir, "same")
			g.keyhole(agent, "sign", name, file, "-O", mac)
			g.pkcs11Tool(t, "--sign", "-m", tt.mechanism, "--id", k.Versions[0].HSM.CKAID, "-i", file, "-o", same)
			ours, err := os.ReadFile(mac)
			must(t, err)
			tokens, err := os.ReadFile(same)
			must(t, err)
			if len(ours) == 0 || !bytes.Equal(ours, tokens) {
				t.Errorf("Keyhole: %x, the token: %x", ours, tokens)
			}
			g.keyhole(agent, "verify", name+".v1", file, "--signature-file", mac)
			changed := write(t, filepath.Join(dir, "changed"), text+" ")
			if s := g.cli(agent, "verify", name+".v1", changed, "--signature-file", mac); s.code != 3 {
				t.Errorf("a changed text: status %d, want 3: %s%s", s.code, s.out, s.errOut)
			}
			if k.Versions[0].PublicKey != "" || k.Versions[0].JWK != nil {
				t.Error("a secret key is published")
			}
			var set api.JWKS
			g.read(agent, "/v1/keys/"+name+"/jwks.json").want(200).into(&set)
			if len(set.Keys) != 0 {
				t.Errorf("its JWKS holds %+v", set.Keys)
			}
		})
	}
}
