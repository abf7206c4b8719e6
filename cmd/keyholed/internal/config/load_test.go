package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyhole/cmd/keyholed/internal/strictyaml"
)

// base is a small good configuration. Tests change single lines of it.
const base = `node: gw1
listen: 127.0.0.1:8443
tls:
  cert_file: server.crt
  key_file: server.key
tokens:
  - name: main
    module: module.so
    label: keyhole
    pin_file: pin
store:
  sqlite: keyhole.db
audit:
  dir: audit
auth:
  issuers:
    - name: corp
      issuer: https://issuer.example
      audience: [keyhole]
      algorithms: [ES256]
      jwks_file: jwks.json
policies:
  files: [policies]
log:
  level: info
`

// workspace makes the files that base names.
func workspace(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range []string{"server.crt", "server.key", "module.so", "pin", "jwks.json", "ca.crt", "policies/p.cedar"} {
		write(t, filepath.Join(dir, f), "1234\n")
	}
	return dir
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := workspace(t)
	file := filepath.Join(dir, "keyhole.yaml")
	write(t, file, base)
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if c.TLS.CertFile != filepath.Join(dir, "server.crt") || c.Policies.Files[0] != filepath.Join(dir, "policies") || c.Audit.Dir != filepath.Join(dir, "audit") {
		t.Errorf("paths are not relative to the file: %q, %q, %q", c.TLS.CertFile, c.Policies.Files, c.Audit.Dir)
	}
	if c.TLS.ClientAuth != ClientAuthNone || c.Tokens[0].Sessions != 8 || c.Store.MaxStaleness != 30*time.Second || c.Request.MaxBody != 1<<20 {
		t.Errorf("defaults are missing: %+v", c)
	}
	pin, err := c.Tokens[0].PIN()
	if err != nil || string(pin) != "1234" {
		t.Errorf("PIN() = %q, %v; want the file without its line break", pin, err)
	}
}

// Each mistake is reported with its line, its key and what to do. old is
// replaced by new in base; want lists "line path: part of the text".
func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		old, new string
		want     []string
	}{
		{"unknown key", "log:\n  level: info", "log:\n  levl: info", []string{`25 log.levl: did you mean "level"?`}},
		{"unknown key at the top", "listen: 127.0.0.1:8443", "lisen: 127.0.0.1:8443", []string{`2 lisen: did you mean "listen"?`}},
		{"unknown key, nothing like it", "log:", "frobnicate: 1\nlog:", []string{`24 frobnicate: unknown key; known here: node, development, listen, tls`}},
		{"unknown key in a list", "    label: keyhole", "    lable: keyhole\n    serial: a", []string{`9 tokens[0].lable: did you mean "label"?`}},
		{"twice", "node: gw1", "node: gw1\nnode: gw2", []string{`2 node: is given twice, first in line 1`}},
		{"PIN in the file", "    pin_file: pin", `    pin: "1234"`, []string{`7 tokens[0]: give either pin_file or pin_env`, `10 tokens[0].pin: name a file that holds it in pin_file`}},
		{"PIN as the file's name", "    pin_file: pin", `    pin_file: "987654"`, []string{`10 tokens[0].pin_file: does not exist`}},
		{"PIN as the variable's name", "    pin_file: pin", `    pin_env: "987654"`, []string{`10 tokens[0].pin_env: not the PIN itself`}},
		{"PIN variable not set", "    pin_file: pin", `    pin_env: KEYHOLE_TEST_NO_SUCH_VARIABLE`, []string{`10 tokens[0].pin_env: is empty or not set`}},
		{"PIN file and variable", "    pin_file: pin", "    pin_file: pin\n    pin_env: HOME", []string{`7 tokens[0]: give either`}},
		{"bare duration", "  sqlite: keyhole.db", "  sqlite: keyhole.db\n  max_staleness: 30", []string{`13 store.max_staleness: 30 is a bare number; write it with a unit`}},
		{"bare zero duration", "log:", "reload_interval: 0\nlog:", []string{`24 reload_interval: bare number`}},
		{"no duration", "log:", "reload_interval: 1 day\nlog:", []string{`24 reload_interval: "1 day" is no duration`}},
		{"negative duration", "log:", "reload_interval: -5s\nlog:", []string{`24 reload_interval: is negative`}},
		{"duration out of range", "log:", "shutdown_grace: 1h\nlog:", []string{`24 shutdown_grace: between 1s and 10m0s`}},
		{"bare size", "log:", "request:\n  max_body: 1048576\nlog:", []string{`25 request.max_body: bare number`}},
		{"no size", "log:", "request:\n  max_body: 1MB\nlog:", []string{`25 request.max_body: "1MB" is no size`}},
		{"size out of range", "log:", "request:\n  max_body: 2GiB\nlog:", []string{`25 request.max_body: between 1KiB and 1GiB`}},
		{"no value", "node: gw1", "node:", []string{`1 node: has no value`}},
		{"number for a text", "    label: keyhole", "    label: 0123", []string{`9 tokens[0].label: put it in quotes`}},
		{"text for a number", "    label: keyhole", "    label: keyhole\n    sessions: many", []string{`10 tokens[0].sessions: takes a whole number`}},
		{"hexadecimal number", "    label: keyhole", "    label: keyhole\n    sessions: 0x10", []string{`10 tokens[0].sessions: not a decimal number`}},
		{"text for a bool", "    label: keyhole", "    label: keyhole\n    exit_when_stuck: yes", []string{`10 tokens[0].exit_when_stuck: true or false`}},
		{"list for a text", "node: gw1", "node: [gw1]", []string{`1 node: is a list`}},
		{"section for a text", "node: gw1", "node: {a: b}", []string{`1 node: is a section`}},
		{"text for a list", "  files: [policies]", "  files: policies", []string{`23 policies.files: takes a list`}},
		{"text for a section", "log:\n  level: info", "log: info", []string{`24 log: takes a section`}},
		{"anchor", "node: gw1", "node: &n gw1", []string{`1 node: anchor or alias`}},
		{"alias", "log:\n  level: info", "log:\n  level: *x", []string{`25 : no valid YAML`}},
		{"merge", "log:", "<<: {node: x}\nlog:", []string{`24 <<: unknown key`}},
		{"no YAML", "  level: info", "  level: [info", []string{`26 : no valid YAML`}},
		{"two documents", "log:", "---\nlog:", []string{`0 : several YAML documents`}},
		{"missing file", "  cert_file: server.crt", "  cert_file: nowhere.crt", []string{`4 tls.cert_file: does not exist`}},
		{"directory for a file", "  cert_file: server.crt", "  cert_file: policies", []string{`4 tls.cert_file: is a directory`}},
		{"missing module", "    module: module.so", "    module: /nowhere/libx.so", []string{`8 tokens[0].module: the file /nowhere/libx.so does not exist`}},
		{"missing policy", "  files: [policies]", "  files:\n    - policies\n    - more", []string{`25 policies.files[1]: does not exist`}},
		{"missing directory of the store", "  sqlite: keyhole.db", "  sqlite: var/keyhole.db", []string{`12 store.sqlite: make it first: mkdir`}},
		{"required key", "  cert_file: server.crt\n", "", []string{`3 tls.cert_file: is missing`}},
		{"required section", "audit:\n  dir: audit\n", "", []string{`0 audit.dir: is missing`}},
		{"no token", "tokens:\n  - name: main\n    module: module.so\n    label: keyhole\n    pin_file: pin\n", "", []string{`0 tokens: list at least one`}},
		{"no selector", "    label: keyhole\n", "", []string{`7 tokens[0]: label or the serial`}},
		{"choice", "  level: info", "  level: warning", []string{`25 log.level: did you mean "warn"?`}},
		{"choice, nothing like it", "  level: info", "  level: verbose", []string{`25 log.level: use "debug", "info", "warn" or "error"`}},
		{"address", "listen: 127.0.0.1:8443", "listen: 8443", []string{`2 listen: put it in quotes`}},
		{"address without a port", "listen: 127.0.0.1:8443", "listen: localhost", []string{`2 listen: write host:port`}},
		{"port", "listen: 127.0.0.1:8443", "listen: localhost:https", []string{`2 listen: is no port`}},
		{"same address", "log:", "ops:\n  listen: 127.0.0.1:8443\nlog:", []string{`25 ops.listen: another port`}},
		{"symmetric algorithm", "[ES256]", "[ES256, HS256]", []string{`20 auth.issuers[0].algorithms[1]: only asymmetric`}},
		{"alg none", "[ES256]", "[none]", []string{`20 auth.issuers[0].algorithms[0]: only asymmetric`}},
		{"misspelt algorithm", "[ES256]", "[ES265]", []string{`20 auth.issuers[0].algorithms[0]: use "ES256"`}},
		{"no audience", "      audience: [keyhole]\n", "", []string{`17 auth.issuers[0].audience: is missing`}},
		{"JWKS over http", "      jwks_file: jwks.json", "      jwks_url: http://issuer.example/jwks", []string{`21 auth.issuers[0].jwks_url: must be https`}},
		{"JWKS twice", "      jwks_file: jwks.json", "      jwks_file: jwks.json\n      jwks_url: https://issuer.example/jwks", []string{`17 auth.issuers[0]: either jwks_url or jwks_file`}},
		{"leeway", "auth:", "auth:\n  leeway: 2m", []string{`16 auth.leeway: the most is 1m0s`}},
		{"client CA missing", "  key_file: server.key", "  key_file: server.key\n  client_auth: required", []string{`3 tls.client_ca_file: is missing`}},
		{"client CA without effect", "  key_file: server.key", "  key_file: server.key\n  client_auth: none\n  client_ca_file: ca.crt", []string{`6 tls.client_auth: yet client_ca_file is given`}},
		{"two tokens of a name", "store:", "  - {name: main, module: module.so, serial: \"1\", pin_file: pin}\nstore:", []string{`11 tokens[1].name: names two tokens`}},
		{"short destroy delay", "log:", "rotation: {min_destroy_delay: 1h}\nlog:", []string{`24 rotation.min_destroy_delay: needs development: true`}},
		{"short period", "log:", "rotation: {min_period: 10s}\nlog:", []string{`24 rotation.min_period: needs development: true`}},
		{"shortest period", "log:", "development: true\nrotation: {min_period: 10ms}\nlog:", []string{`25 rotation.min_period: between 1s and`}},
		{"act for two", "log:", "rotation: {two_people: [destroy, delete-keys]}\nlog:", []string{`24 rotation.two_people[1]: did you mean "delete-key"?`}},
		{"act for two, twice", "log:", "rotation: {two_people: [destroy, destroy]}\nlog:", []string{`24 rotation.two_people[1]: is given twice`}},
		{"life of approvals", "log:", "rotation: {approval_life: 1s}\nlog:", []string{`24 rotation.approval_life: between 1m0s and`}},
		{"trigger without keys", "log:", "triggers:\n  - name: deployed\n    reason: deployment\nlog:", []string{`25 triggers[0].keys: is missing`}},
		{"trigger with a wildcard", "log:", "triggers:\n  - {name: deployed, keys: [\"*\"], reason: deployment}\nlog:", []string{`25 triggers[0].keys[0]: without wildcards`}},
		{"trigger's key twice", "log:", "triggers:\n  - {name: deployed, keys: [a, a], reason: deployment}\nlog:", []string{`25 triggers[0].keys[1]: is given twice`}},
		{"trigger's reason", "log:", "triggers:\n  - {name: deployed, keys: [a], reason: deploy}\nlog:", []string{`25 triggers[0].reason: use "scheduled"`}},
		{"trigger without a reason", "log:", "triggers:\n  - {name: deployed, keys: [a]}\nlog:", []string{`25 triggers[0].reason: is missing`}},
		{"two triggers of a name", "log:", "triggers:\n  - {name: a, keys: [a], reason: manual}\n  - {name: a, keys: [a], reason: manual}\nlog:", []string{`26 triggers[1].name: names two triggers`}},
		{"events not kept", "log:", "events: {keep: 1m}\nlog:", []string{`24 events.keep: between 1h0m0s and`}},
		{"webhook over http", "log:", "webhooks:\n  - {name: siem, url: \"http://siem.example/s3cr3t\", signing_key: hooks}\nlog:", []string{`25 webhooks[0].url: must be https`}},
		{"webhook with a password", "log:", "webhooks:\n  - {name: siem, url: \"https://u:s3cr3t@siem.example/\", signing_key: hooks}\nlog:", []string{`25 webhooks[0].url: holds a user or password`}},
		{"webhook without a host", "log:", "webhooks:\n  - {name: siem, url: \"https:///s3cr3t\", signing_key: hooks}\nlog:", []string{`25 webhooks[0].url: is no URL`}},
		{"webhook without a key", "log:", "webhooks:\n  - {name: siem, url: \"https://siem.example/\"}\nlog:", []string{`25 webhooks[0].signing_key: is missing`}},
		{"webhook by the audit key", "log:", "webhooks:\n  - {name: siem, url: \"https://siem.example/\", signing_key: keyhole-audit}\nlog:", []string{`25 webhooks[0].signing_key: not begin with "keyhole-"`}},
		{"webhook's event", "log:", "webhooks:\n  - {name: siem, url: \"https://siem.example/\", signing_key: hooks, events: [version.activate]}\nlog:", []string{`25 webhooks[0].events[0]: did you mean "version.activated"?`}},
		{"webhook that is patient", "log:", "webhooks:\n  - {name: siem, url: \"https://siem.example/\", signing_key: hooks, give_up_after: 30s}\nlog:", []string{`25 webhooks[0].give_up_after: between 1m0s and`}},
		{"webhook more patient than events", "log:", "events: {keep: 2h}\nwebhooks:\n  - {name: siem, url: \"https://siem.example/\", signing_key: hooks}\nlog:", []string{`26 webhooks[0].give_up_after: events are kept for 2h0m0s`}},
		{"webhook's CA", "log:", "webhooks:\n  - {name: siem, url: \"https://siem.example/\", signing_key: hooks, ca_file: nowhere.crt}\nlog:", []string{`25 webhooks[0].ca_file: does not exist`}},
		{"two webhooks of a name", "log:", "webhooks:\n  - {name: a, url: \"https://a.example/\", signing_key: hooks}\n  - {name: a, url: \"https://a.example/\", signing_key: hooks}\nlog:", []string{`26 webhooks[1].name: names two webhooks`}},
		{"several at once", "node: gw1\nlisten: 127.0.0.1:8443\ntls:\n  cert_file: server.crt\n  key_file: server.key\ntokens:\n  - name: main\n    module: module.so\n", "nod: gw1\ntls: yes\ntokens:\n  - name: main\n",
			[]string{`1 nod: did you mean "node"?`, `2 tls: takes a section`, `4 tokens[0].module: is missing`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := workspace(t)
			text := strings.Replace(base, tt.old, tt.new, 1)
			if text == base {
				t.Fatalf("%q is not in the base configuration", tt.old)
			}
			_, err := parse(filepath.Join(dir, "keyhole.yaml"), []byte(text))
			all, ok := errors.AsType[strictyaml.Errors](err)
			if !ok {
				t.Fatalf("error is %v (%T), want strictyaml.Errors", err, err)
			}
			var got, want []string
			for i, p := range all {
				got = append(got, fmt.Sprintf("%d %s", p.Line, p.Path))
				if i < len(tt.want) {
					if _, part, _ := strings.Cut(tt.want[i], ": "); !strings.Contains(p.Text, part) {
						t.Errorf("%q does not say %q", p.Text, part)
					}
				}
			}
			for _, w := range tt.want {
				place, _, _ := strings.Cut(w, ": ")
				want = append(want, place)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s\nall: %v", diff, err)
			}
			if strings.Contains(err.Error(), "987654") || strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// What production forbids is allowed for development.
func TestDevelopment(t *testing.T) {
	t.Parallel()
	dir := workspace(t)
	text := base + "development: true\nrotation:\n  min_period: 1s\n  min_destroy_delay: 0s\n  two_people: []\n"
	c, err := parse(filepath.Join(dir, "keyhole.yaml"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Development || c.Rotation.MinPeriod != time.Second || c.Rotation.MinDestroyDelay != 0 || len(c.Rotation.TwoPeople) != 0 || c.Rotation.ApprovalLife != 24*time.Hour {
		t.Errorf("%+v", c.Rotation)
	}
}

// Files that others may read or change are refused with the command that
// mends it.
func TestFileModes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		file, path, fix string
		mode            os.FileMode
		line            int
	}{
		{"pin", "tokens[0].pin_file", "chmod 600", 0o660, 10},
		{"pin", "tokens[0].pin_file", "chmod 600", 0o604, 10},
		{"server.key", "tls.key_file", "chmod 0600", 0o604, 5},
		{"server.crt", "tls.cert_file", "chmod 0644", 0o646, 4},
		{"module.so", "tokens[0].module", "chmod 0644", 0o666 &^ 0o020, 8},
		{"jwks.json", "auth.issuers[0].jwks_file", "chmod 0644", 0o646, 21},
		{"policies", "policies.files[0]", "chmod o-w", 0o703, 23},
	} {
		t.Run(fmt.Sprintf("%s %04o", tt.file, tt.mode), func(t *testing.T) {
			t.Parallel()
			dir := workspace(t)
			if err := os.Chmod(filepath.Join(dir, tt.file), tt.mode); err != nil {
				t.Fatal(err)
			}
			_, err := parse(filepath.Join(dir, "keyhole.yaml"), []byte(base))
			all, ok := errors.AsType[strictyaml.Errors](err)
			if !ok || len(all) != 1 || all[0].Path != tt.path || all[0].Line != tt.line || !strings.Contains(all[0].Text, tt.fix) {
				t.Errorf("error is %v; want one about %s in line %d with %q", err, tt.path, tt.line, tt.fix)
			}
		})
	}
}

func TestPINFile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"line break", "1234\n", "1234"},
		{"no line break", "1234", "1234"},
		{"carriage return", "1234\r\n", "1234"},
		{"inner blanks stay", " 12 34 \n", " 12 34 "},
		{"only one line break goes", "1234\n\n", "1234\n"},
		{"empty", "", ""},
		{"only a line break", "\n", ""},
		{"far too long", strings.Repeat("1", 256), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			token := Token{PINFile: filepath.Join(t.TempDir(), "pin")}
			write(t, token.PINFile, tt.text)
			pin, err := token.PIN()
			if string(pin) != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("PIN() = %q, %v; want %q", pin, err, tt.want)
			}
		})
	}
}

func TestPINFromEnvironment(t *testing.T) {
	t.Setenv("KEYHOLE_TEST_PIN", "4321")
	token := Token{PINEnv: "KEYHOLE_TEST_PIN"}
	if pin, err := token.PIN(); err != nil || string(pin) != "4321" {
		t.Errorf("PIN() = %q, %v", pin, err)
	}
}

// Somebody may write the PIN itself where a variable's name belongs.
func TestPINInPlaceOfAVariable(t *testing.T) {
	t.Parallel()
	const pin = "hunter2"
	_, err := (&Token{PINEnv: pin}).PIN()
	k := &checker{c: &Config{}, broken: map[string]bool{}}
	k.pin("tokens[0]", &Token{PINEnv: pin})
	if len(k.problems) != 1 {
		t.Fatalf("%v", k.problems)
	}
	for _, err := range []error{err, k.problems} {
		if err == nil || strings.Contains(err.Error(), pin) {
			t.Errorf("the error says %v", err)
		}
	}
}

func TestFileItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "keyhole.yaml")); err == nil {
		t.Error("a missing file is taken")
	}
	for name, text := range map[string]string{"empty": "", "comment": "# nothing\n", "list": "- a\n", "text": "hello\n", "braces": "{}\n", "large": strings.Repeat("#", maxFile+1)} {
		file := filepath.Join(dir, name)
		write(t, file, text)
		c, err := Load(file)
		if err == nil || c != nil {
			t.Errorf("%s: Load = %v, %v; want an error", name, c, err)
		}
	}
}

func TestConfigurationThatEverybodyMayChange(t *testing.T) {
	t.Parallel()
	file := filepath.Join(workspace(t), "keyhole.yaml")
	write(t, file, base)
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "chmod o-w") {
		t.Errorf("error is %v", err)
	}
}

// Whatever the bytes, parse answers with a configuration or with mistakes in
// lines that the file has.
func FuzzParse(f *testing.F) {
	f.Add([]byte(base))
	f.Add([]byte("tokens: [{name: a}, 5, [x]]\nlisten: &a b\nmodule_env: {A: b, 5: c}"))
	f.Add([]byte("a: *b\n---\n? [x]\n: y\n"))
	f.Add([]byte("request: {max_body: 99999999999999999999GiB, timeout: 99999999999999h}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parse("/nonexistent/keyhole.yaml", text)
		if err == nil {
			if c == nil {
				t.Fatal("neither a configuration nor an error")
			}
			return
		}
		all, ok := errors.AsType[strictyaml.Errors](err)
		if !ok || len(all) == 0 || c != nil {
			t.Fatalf("error is %v (%T), configuration %v", err, err, c)
		}
		lines := strings.Count(strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(string(text)), "\n") + 1
		if !slices.IsSortedFunc(all, func(a, b strictyaml.Problem) int { return a.Line - b.Line }) {
			t.Fatalf("not in order of lines: %v", err)
		}
		if last := all[len(all)-1].Line; last > lines+1 || all[0].Line < 0 {
			t.Fatalf("a mistake in line %d of %d", last, lines)
		}
	})
}
