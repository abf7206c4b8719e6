package integration

import (
	"regexp"
	"strings"
	"testing"

	"keyhole/keys"
	"keyhole/softhsm"
)

// pkcs11Tool runs OpenSC's pkcs11-tool on the gateway's token, logged in by
// the PIN in its environment.
func (g *gateway) pkcs11Tool(t *testing.T, args ...string) string {
	t.Helper()
	install, err := softhsm.Find()
	must(t, err)
	s := execute(t, t.TempDir(), []string{"SOFTHSM2_CONF=" + g.path("softhsm2.conf"), "TOKEN_PIN=" + g.line("user.pin")}, "",
		"pkcs11-tool", append([]string{"--module", install.Module, "--login", "--pin", "env:TOKEN_PIN"}, args...)...)
	if s.code != 0 {
		t.Fatalf("pkcs11-tool %s: status %d\n%s%s", strings.Join(args, " "), s.code, s.out, s.errOut)
	}
	return s.out
}

// object is one that pkcs11-tool lists.
type object struct{ kind, label, id, usage, access string }

// objects lists what is on the gateway's token.
func (g *gateway) objects(t *testing.T) []object {
	t.Helper()
	field := regexp.MustCompile(`(?m)^  (label|ID|Usage|Access): +(.*)$`)
	var all []object
	for part := range strings.SplitSeq(g.pkcs11Tool(t, "--list-objects"), " Object; ") {
		// What is in front of the separator ends in the next object's kind.
		if n := len(all); n > 0 {
			o := &all[n-1]
			for _, m := range field.FindAllStringSubmatch(part, -1) {
				*map[string]*string{"label": &o.label, "ID": &o.id, "Usage": &o.usage, "Access": &o.access}[m[1]] = m[2]
			}
		}
		lines := strings.Split(strings.TrimRight(part, "\n"), "\n")
		all = append(all, object{kind: lines[len(lines)-1]})
	}
	return all[:len(all)-1] // behind the last separator there is no kind
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
		if strings.HasPrefix(o.label, keys.ReservedPrefix) {
			continue // Keyhole's own
		}
		if o.id == "" || ids[o.label] != o.id {
			t.Errorf("%+v is no version of ours, whose ids are %v", o, ids)
		}
		if o.kind == "Public Key" {
			public[o.label]++
			continue
		}
		secret[o.label]++
		for _, want := range []string{"sensitive", "always sensitive", "never extractable", "local"} {
			if !strings.Contains(", "+o.access+",", ", "+want+",") {
				t.Errorf("%s %s is %s, not %s", o.kind, o.label, o.access, want)
			}
		}
		if o.kind == "Private Key" && strings.Contains(o.usage, ",") {
			t.Errorf("%s may do more than one thing: %s", o.label, o.usage)
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
