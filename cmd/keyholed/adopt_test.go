package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/rotation"
)

// toTheEnd runs keyholed to its end.
func toTheEnd(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], args...)
	c.Env = append(os.Environ(), asKeyholed+"=1")
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	err := c.Run()
	if exited := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exited) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), o.String(), e.String()
}

// stopped is a dev directory whose gateway has ended.
type stopped struct {
	t   *testing.T
	dir string
}

func (s stopped) path(name string) string { return filepath.Join(s.dir, name) }

// run runs a command on the directory and checks its status and that its
// output says so.
func (s stopped) run(want int, says []string, args ...string) string {
	s.t.Helper()
	args = slices.Insert(args, 1, "--config", s.path("keyhole.yaml"))
	status, out, errs := toTheEnd(s.t, args...)
	if status != want {
		s.t.Fatalf("keyholed %s: status %d, want %d\n%s\n%s", strings.Join(args, " "), status, want, out, errs)
	}
	for _, text := range says {
		if !strings.Contains(out+errs, text) {
			s.t.Errorf("keyholed %s does not say %q:\n%s\n%s", strings.Join(args, " "), text, out, errs)
		}
	}
	return out
}

// tool runs pkcs11-tool on the directory's token.
func (s stopped) tool(args ...string) string {
	s.t.Helper()
	text, err := os.ReadFile(s.path("keyhole.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	module := regexp.MustCompile(`module: *"?([^"\n]+\.so)"?`).FindStringSubmatch(string(text))
	pin, err := os.ReadFile(s.path("user.pin"))
	if err != nil || module == nil {
		s.t.Fatalf("no PIN or no module: %v", err)
	}
	return s.shell("pkcs11-tool", append([]string{"--module", module[1], "--login", "--pin", strings.TrimSpace(string(pin))}, args...)...)
}

func (s stopped) shell(name string, args ...string) string {
	s.t.Helper()
	c := exec.CommandContext(s.t.Context(), name, args...)
	c.Env = append(os.Environ(), "SOFTHSM2_CONF="+s.path("softhsm2.conf"))
	out, err := c.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// objects lists the token's objects, but for what differs from call to call.
func (s stopped) objects() string {
	lines := strings.Split(s.tool("--list-objects"), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// files returns the bytes of the database and of the audit log.
func (s stopped) files() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"keyhole.db*", "audit/*"} {
		names, err := filepath.Glob(s.path(pattern))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, name := range names {
			info, err := os.Stat(name)
			if err != nil {
				s.t.Fatal(err)
			}
			if info.IsDir() {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				s.t.Fatal(err)
			}
			all[name] = string(b)
		}
	}
	return all
}

// dry checks that a command leaves token, database and audit log as they are.
func (s stopped) dry(want int, says []string, args ...string) {
	s.t.Helper()
	objects, files := s.objects(), s.files()
	s.run(want, says, append(args, "--dry-run")...)
	if got := s.objects(); got != objects {
		s.t.Errorf("a dry run has changed the token:\n%s\n%s", objects, got)
	}
	got := s.files()
	delete(got, s.path("keyhole.db.lock"))
	delete(files, s.path("keyhole.db.lock"))
	if len(got) != len(files) {
		s.t.Errorf("a dry run has left %d files of %d", len(got), len(files))
	}
	for name, b := range files {
		if got[name] != b {
			s.t.Errorf("a dry run has changed %s", name)
		}
	}
}

// lose removes the database.
func (s stopped) lose() {
	s.t.Helper()
	names, err := filepath.Glob(s.path("keyhole.db*"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			s.t.Fatal(err)
		}
	}
}

// TestAdoptLostDatabase: the database is deleted, its keys are adopted, and
// what was made before is good, by the same versions.
func TestAdoptLostDatabase(t *testing.T) {
	t.Parallel()
	s := stopped{t, filepath.Join(t.TempDir(), "kh")}
	p := devGateway(t, s.dir)
	ctx := t.Context()
	admin, agent := p.caller(s.dir, "admin.jwt"), p.caller(s.dir, "agent.jwt")
	createKey(t, admin, "payments", "ES256")
	createKey(t, admin, "vault", "A256GCM")
	createKey(t, admin, "web", "PS256")
	createKey(t, admin, "mac", "HS256")
	sign := func(key string) api.SignResponse {
		t.Helper()
		sig, err := agent.Sign(ctx, key, api.SignRequest{Payload: []byte("hello")})
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	leaked, web, mac := sign("payments"), sign("web"), sign("mac")
	rotate := func(key string) {
		t.Helper()
		if _, err := admin.Rotate(ctx, key, api.RotateRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	rotate("payments")
	good := sign("payments")
	rotate("payments")
	sealed, err := agent.Encrypt(ctx, "vault", api.EncryptRequest{Plaintext: []byte("secret"), AAD: []byte("aad")})
	if err != nil {
		t.Fatal(err)
	}
	rotate("vault")
	if _, err := admin.Revoke(ctx, keys.VersionID{Key: "payments", Number: 1}, api.VersionActRequest{Reason: "leaked"}); err != nil {
		t.Fatal(err)
	}
	status, _, errs := toTheEnd(t, "reconcile", "--config", s.path("keyhole.yaml"))
	if status != exit.Audit || !strings.Contains(errs, "stop the gateway") {
		t.Errorf("beside a running gateway: status %d\n%s", status, errs)
	}
	p.stop()

	s.dry(0, []string{"They agree."}, "reconcile")
	s.run(0, []string{"They agree."}, "reconcile")
	s.dry(0, []string{"0 keys would be taken", "5 have good rows"}, "adopt")
	s.lose()
	s.run(exit.Store, []string{"keyholed adopt"}, "reconcile")
	s.dry(0, []string{"payments.v3", "compromised", "PS256 (3072)", "keyhole-audit.v1", "5 keys would be taken", "dry run"}, "adopt")
	s.run(0, []string{"payments.v3", "5 keys were taken", "Policies, descriptions and tags are not on the token"}, "adopt")
	s.run(0, []string{"0 keys were taken", "5 have good rows"}, "adopt")
	s.run(0, []string{"They agree."}, "reconcile")

	p = serve(t, s.dir)
	admin, agent = p.caller(s.dir, "admin.jwt"), p.caller(s.dir, "agent.jwt")
	for _, old := range []struct {
		key   string
		sig   api.SignResponse
		valid bool
	}{{"payments", leaked, false}, {"payments", good, true}, {"web", web, true}, {"mac", mac, true}} {
		v, err := agent.Verify(ctx, old.key, api.VerifyRequest{Payload: []byte("hello"), Signature: old.sig.Signature, Version: old.sig.Version})
		if err != nil || v.Valid != old.valid {
			t.Errorf("a signature by %s: %+v, %v; want valid %v", old.sig.KeyID, v, err, old.valid)
		}
	}
	opened, err := agent.Decrypt(ctx, "vault", api.DecryptRequest{Ciphertext: sealed.Ciphertext, AAD: []byte("aad")})
	if err != nil || string(opened.Plaintext) != "secret" || opened.Version != 1 {
		t.Errorf("decrypted: %q by version %d, %v", opened.Plaintext, opened.Version, err)
	}
	if again := sign("payments"); again.Version != 3 {
		t.Errorf("version %d signs, want 3", again.Version)
	}
	if again := sign("web"); again.Algorithm != "PS256" {
		t.Errorf("%s signs by %s, want PS256: the audit log says so", again.KeyID, again.Algorithm)
	}
	rotate("payments")
	if again := sign("payments"); again.Version != 4 {
		t.Errorf("after a rotation version %d signs, want 4", again.Version)
	}
	if n := audited(t, s.dir, `"action":"adopt"`, `"outcome":"ok"`, `"principal":"local:`); n != 5 {
		t.Errorf("%d adoptions are recorded", n)
	}
	p.stop()
}

// TestAdoptForeignKeys takes in what pkcs11-tool has made.
func TestAdoptForeignKeys(t *testing.T) {
	t.Parallel()
	s := stopped{t, filepath.Join(t.TempDir(), "kh")}
	devGateway(t, s.dir).stop()
	s.tool("--keypairgen", "--key-type", "rsa:2048", "--label", "Web key, 2019=old", "--id", "0a", "--usage-sign")
	s.tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", "code", "--id", keys.NewObjectID().String(), "--usage-sign")
	s.tool("--keygen", "--key-type", "aes:32", "--label", "box", "--id", keys.NewObjectID().String(), "--extractable", "--usage-decrypt")
	s.run(0, []string{"0 keys were taken", "5 key objects of others are left alone"}, "adopt")

	web := "Web key, 2019=old=site,algorithm=PS256"
	s.dry(1, []string{"is not taken", "CKA_ID of 1 bytes", "--set-id"}, "adopt", "--import", web)
	out := s.run(1, nil, "adopt", "--import", web)
	commands := regexp.MustCompile(`(?m)^  (pkcs11-tool .*--type (privkey|pubkey) --id 0a --set-id [0-9a-f]{32})$`).FindAllStringSubmatch(out, -1)
	if len(commands) != 2 {
		t.Fatalf("two commands are to give both halves another CKA_ID:\n%s", out)
	}
	pin, err := os.ReadFile(s.path("user.pin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands { // as a person would paste them
		s.shell("sh", "-c", c[1]+" --pin "+strings.TrimSpace(string(pin)))
	}
	s.run(1, []string{"--algorithm code.v1", "the token does not tell which"}, "adopt", "--import", "Web key, 2019=old=code")
	s.run(1, []string{"can leave the token", "--allow-unprotected", "1 key was taken"}, "adopt", "--import", web, "--import", "box=box")
	s.dry(0, []string{"EXTRACTABLE", "box.v1"}, "adopt", "--allow-unprotected", "--import", "box=box")
	s.run(0, []string{"EXTRACTABLE", "never extractable", "another tool made the key of code.v7", "2 keys were taken", "2 have good rows"}, "adopt", "--allow-unprotected",
		"--import", web, "--import", "code=code.v7", "--import", "box=box")
	s.run(0, []string{"They agree."}, "reconcile")

	p := serve(t, s.dir)
	ctx := t.Context()
	admin, agent := p.caller(s.dir, "admin.jwt"), p.caller(s.dir, "agent.jwt")
	for key, want := range map[string]string{"site": "site.v1", "code": "code.v7"} {
		sig, err := agent.Sign(ctx, key, api.SignRequest{Payload: []byte("hello")})
		if err != nil || sig.KeyID != want {
			t.Errorf("signed by %q, %v; want %s", sig.KeyID, err, want)
			continue
		}
		if v, err := agent.Verify(ctx, key, api.VerifyRequest{Payload: []byte("hello"), Signature: sig.Signature, Version: sig.Version}); err != nil || !v.Valid {
			t.Errorf("%s: %+v, %v", key, v, err)
		}
	}
	sealed, err := agent.Encrypt(ctx, "box", api.EncryptRequest{Plaintext: []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := agent.Decrypt(ctx, "box", api.DecryptRequest{Ciphertext: sealed.Ciphertext}); err != nil || string(opened.Plaintext) != "secret" {
		t.Errorf("%q, %v", opened.Plaintext, err)
	}
	box, err := admin.Key(ctx, "box")
	if err != nil || box.Versions[0].HSM.NeverExtractable {
		t.Errorf("the key that can leave the token is shown as %+v, %v", box.Versions, err)
	}
	if _, err := admin.Rotate(ctx, "site", api.RotateRequest{}); err != nil {
		t.Error(err)
	}
	p.stop()
	s.run(0, []string{"They agree."}, "reconcile")

	// Imported before, and the database is lost: the audit log knows their
	// algorithms and numbers, the operator which label is whose.
	s.lose()
	s.run(0, []string{"site.v1", "site.v2", "code.v7", "keyhole-audit.v1", "3 keys were taken"}, "adopt", "--import", "Web key, 2019=old=site.v1", "--import", "code=code.v7")
}

// TestReconcileCommand shows what people and programs are told.
func TestReconcileCommand(t *testing.T) {
	t.Parallel()
	s := stopped{t, filepath.Join(t.TempDir(), "kh")}
	p := devGateway(t, s.dir)
	admin := p.caller(s.dir, "admin.jwt")
	createKey(t, admin, "payments", "ES256")
	createKey(t, admin, "mac", "HS256")
	if _, err := admin.Rotate(t.Context(), "payments", api.RotateRequest{}); err != nil {
		t.Fatal(err)
	}
	p.stop()
	old := s.files()[s.path("keyhole.db")]
	p = serve(t, s.dir)
	if _, err := p.caller(s.dir, "admin.jwt").Revoke(t.Context(), keys.VersionID{Key: "payments", Number: 1}, api.VersionActRequest{Reason: "leaked"}); err != nil {
		t.Fatal(err)
	}
	p.stop()

	// An older copy of the database comes back, a key is lost, one appears.
	s.lose()
	put(t, s.path("keyhole.db"), old)
	s.tool("--delete-object", "--type", "secrkey", "--label", "mac.v1")
	s.tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", "payments.v9", "--id", keys.NewObjectID().String(), "--usage-sign")
	s.dry(1, []string{"payments.v1: revocation-lost", "It would be repaired", "mac.v1: missing", "payments.v9: orphan", "3 differences are left"}, "reconcile")
	out := s.run(1, nil, "reconcile", "-o", "json")
	var report api.ReconcileReport
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var found []string
	for _, f := range report.Findings {
		found = append(found, f.Kind+" "+f.Label+" "+f.Action)
	}
	slices.Sort(found)
	if want := []string{"missing mac.v1 none", "orphan payments.v9 none", "revocation-lost payments.v1 repaired"}; !slices.Equal(found, want) {
		t.Errorf("found %q, want %q", found, want)
	}
	if n := audited(t, s.dir, `"action":"revoke"`, `"kid":"payments.v1"`, `"outcome":"ok"`, `"principal":"local:`); n != 1 {
		t.Errorf("%d records of the revocation that came back", n)
	}
	s.run(1, []string{"2 differences are left", "payments.v9"}, "reconcile", "--quick")
	s.tool("--delete-object", "--type", "privkey", "--label", "payments.v9")
	s.run(1, []string{"payments.v9: orphan"}, "reconcile")
	s.tool("--delete-object", "--type", "pubkey", "--label", "payments.v9")
	s.run(1, []string{"1 difference is left"}, "reconcile", "--quick")
	s.run(exit.Config, []string{"text or json"}, "reconcile", "-o", "yaml")
}

func TestParseImport(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]rotation.Import{
		"web=site":                             {Label: "web", Key: "site"},
		"web=site.v3":                          {Label: "web", Key: "site", Number: 3},
		"a=b=site,algorithm=PS256":             {Label: "a=b", Key: "site", Algorithm: keys.PS256},
		"a, b=site,token=main,algorithm=ES256": {Label: "a, b", Key: "site", Algorithm: keys.ES256, Token: "main"},
	} {
		if got, err := parseImport(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "=", "web", "=site", "web=", "web=Site", "web=site.v0", "web=keyhole-store", "web=site,algorithm=none", "web=site,algorithm=ES256,algorithm=ES384", "web=site,token="} {
		if got, err := parseImport(text); err == nil {
			t.Errorf("%q is taken for %+v", text, got)
		}
	}
}

// FuzzParseImport: what is taken names a key that can be made, and a label
// that the text begins with.
func FuzzParseImport(f *testing.F) {
	f.Add("a, b=site.v2,token=main,algorithm=ES256")
	f.Add("=")
	f.Fuzz(func(t *testing.T, text string) {
		i, err := parseImport(text)
		if err != nil {
			return
		}
		if keys.CheckNewName(i.Key) != nil || i.Label == "" || !strings.HasPrefix(text, i.Label+"="+i.Key) || i.Algorithm != "" && !i.Algorithm.Known() {
			t.Errorf("%q is taken for %+v", text, i)
		}
	})
}
