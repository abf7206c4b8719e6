package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const reference = "../../../../docs/keyhole.yaml"

func readReference(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The reference is good as it stands, and shows every default.
func TestReferenceShowsDefaults(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"tls/server.crt", "tls/server.key", "tls/clients-ca.crt", "tls/clients.crl", "pin", "corp.jwks.json", "groups.yaml", "policies/a.cedar"} {
		write(t, filepath.Join(dir, f), "x")
	}
	module := filepath.Join(dir, "module.so")
	write(t, module, "x")
	text := strings.Replace(readReference(t), "/usr/lib/softhsm/libsofthsm2.so", module, 1)
	got, err := parse(filepath.Join(dir, "keyhole.yaml"), []byte(text))
	if err != nil {
		t.Fatalf("the reference is refused:\n%v", err)
	}

	want := Default()
	want.TLS.ClientAuth = ClientAuthOptional // what client_ca_file implies
	// What has no default is the example's.
	want.File, want.Node, want.ModuleEnv = got.File, got.Node, got.ModuleEnv
	want.TLS.CertFile, want.TLS.KeyFile, want.TLS.ClientCAFile, want.TLS.CRLFiles = got.TLS.CertFile, got.TLS.KeyFile, got.TLS.ClientCAFile, got.TLS.CRLFiles
	want.Store.SQLite, want.Policies, want.Auth.GroupsFile = got.Store.SQLite, got.Policies, got.Auth.GroupsFile
	want.Audit.Dir, want.Audit.KeysFile = got.Audit.Dir, got.Audit.KeysFile
	var export Export
	export.SetDefaults()
	export.Name, export.Type, export.Address = got.Audit.Exports[0].Name, got.Audit.Exports[0].Type, got.Audit.Exports[0].Address
	want.Audit.Exports = []Export{export}
	var token Token
	token.SetDefaults()
	token.Name, token.Module, token.Label, token.PINFile = got.Tokens[0].Name, got.Tokens[0].Module, got.Tokens[0].Label, got.Tokens[0].PINFile
	want.Tokens = []Token{token}
	var issuer Issuer
	issuer.SetDefaults()
	g := got.Auth.Issuers[0]
	issuer.Name, issuer.Issuer, issuer.Audience, issuer.Algorithms, issuer.JWKSFile = g.Name, g.Issuer, g.Audience, g.Algorithms, g.JWKSFile
	want.Auth.Issuers = []Issuer{issuer}
	want.Triggers = got.Triggers
	var hook Webhook
	hook.SetDefaults()
	h := got.Webhooks[0]
	hook.Name, hook.URL, hook.Keys, hook.Events, hook.SigningKey = h.Name, h.URL, h.Keys, h.Events, h.SigningKey
	want.Webhooks = []Webhook{hook}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{}), cmpopts.IgnoreFields(Config{}, "Hash")); diff != "" {
		t.Errorf("docs/keyhole.yaml does not show the defaults (-default +docs):\n%s", diff)
	}
}

// Every field is in the reference, under a comment that says its default or
// that it is required.
func TestReferenceDescribesEveryField(t *testing.T) {
	lines := strings.Split(readReference(t), "\n")
	key := regexp.MustCompile(`^\s*(# |- )?([a-z_]+):( |$)`)
	described := map[string]bool{}
	var above strings.Builder
	for _, line := range lines {
		m := key.FindStringSubmatch(line)
		switch trimmed := strings.TrimSpace(line); {
		case m != nil:
			described[m[2]] = described[m[2]] || above.Len() > 0
			if !slices.Contains([]string{"label", "jwks_file", "failed_logins_per_minute", "failed_decrypts_per_minute"}, m[2]) {
				above.Reset() // these share their comment with the line below
			}
		case strings.HasPrefix(trimmed, "#"):
			above.WriteString(trimmed)
		case trimmed == "":
			above.Reset()
		}
	}
	var walk func(ty reflect.Type)
	walk = func(ty reflect.Type) {
		for i := range ty.NumField() {
			f := ty.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if name == "" || name == "-" {
				continue
			}
			inner := f.Type
			if inner.Kind() == reflect.Slice {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				walk(inner)
				continue
			}
			if !described[name] {
				t.Errorf("docs/keyhole.yaml does not describe %s.%s (%s)", ty.Name(), f.Name, name)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
