package integration

import (
	"strings"
	"testing"

	"keyhole/integration/internal/p11"
	"keyhole/keys"
)

// pkcs11Tool runs OpenSC's pkcs11-tool on the gateway's token, logged in.
func (g *gateway) pkcs11Tool(t *testing.T, args ...string) string {
	t.Helper()
	return p11.Tool(t, g.path("softhsm2.conf"), g.line("user.pin"), args...)
}

// object is one that pkcs11-tool lists.
type object = p11.Object

// objects lists what is on the gateway's token.
func (g *gateway) objects(t *testing.T) []object {
	t.Helper()
	return p11.Objects(t, g.path("softhsm2.conf"), g.line("user.pin"))
}

// On the token every version is one object or pair under its own name and id,
// and what is secret of it can never be taken out. That is pkcs11-tool's word,
// and what the gateway says of the version is the same.
func TestKeysOnTheToken(t *testing.T) {
	g := newGateway(t)
	ids := map[string]string{}
	for _, k := range []struct {
		name, algorithm string
		bits            int
	}{{"payments", "ES256", 0}, {"seal", "EdDSA", 0}, {"web", "RS256", 2048}, {"mac", "HS256", 0}, {"vault", "A256GCM", 0}, {"inbox", "RSA-OAEP", 2048}} {
		g.create(k.name, k.algorithm, k.bits)
	}
	for range 2 {
		g.rotate("payments")
	}
	for _, name := range []string{"payments", "seal", "web", "mac", "vault", "inbox"} {
		k, err := g.as(agent).Key(t.Context(), name)
		must(t, err)
		for _, v := range k.Versions {
			ids[v.KeyID] = v.HSM.CKAID
			if !v.HSM.NeverExtractable || !v.HSM.AlwaysSensitive {
				t.Errorf("%s: the gateway says %+v", v.KeyID, v.HSM)
			}
		}
	}
	secret, public := map[string]int{}, map[string]int{}
	for _, o := range g.objects(t) {
		if strings.HasPrefix(o.Label, keys.ReservedPrefix) {
			continue // Keyhole's own
		}
		if o.ID == "" || ids[o.Label] != o.ID {
			t.Errorf("%+v is no version of ours, whose ids are %v", o, ids)
		}
		if o.Kind == "Public Key" {
			public[o.Label]++
			continue
		}
		secret[o.Label]++
		for _, want := range []string{"sensitive", "always sensitive", "never extractable", "local"} {
			if !strings.Contains(", "+o.Access+",", ", "+want+",") {
				t.Errorf("%s %s is %s, not %s", o.Kind, o.Label, o.Access, want)
			}
		}
		if o.Kind == "Private Key" && strings.Contains(o.Usage, ",") {
			t.Errorf("%s may do more than one thing: %s", o.Label, o.Usage)
		}
	}
	for id := range ids {
		wantPublic := 1
		if strings.HasPrefix(id, "mac.") || strings.HasPrefix(id, "vault.") {
			wantPublic = 0
		}
		if secret[id] != 1 || public[id] != wantPublic {
			t.Errorf("%s: %d secret and %d public objects", id, secret[id], public[id])
		}
	}
	for _, id := range []string{"payments.v1", "payments.v2", "payments.v3"} {
		if ids[id] == "" {
			t.Errorf("there is no %s", id)
		}
	}
}
