package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyhole/cmd/keyholed/internal/exit"
)

// command runs one that does not serve, within the test.
func command(t *testing.T, args ...string) (status int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	status = run(t.Context(), args, &o, &e)
	return status, o.String(), e.String()
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   string
		status int
		out    string // part of standard output
		err    string // part of standard error
	}{
		{"version", exit.OK, "keyholed ", ""},
		{"--help", exit.OK, "RestartPreventExitStatus=4", ""},
		{"serve --help", exit.OK, "--config file", ""},
		{"dev --help", exit.OK, "--ops-listen host:port", ""},
		{"check-config --help", exit.OK, "opens files only", ""},
		{"serv", exit.Config, "", "serve"},
		{"serve extra --config x", exit.Config, "", "extra"},
		{"serve --confg x", exit.Config, "", "did you mean --config?"},
		{"dev --dri x", exit.Config, "", "did you mean --dir?"},
		{"serve", exit.Config, "", "--config is missing"},
		{"check-config", exit.Config, "", "--config is missing"},
		{"dev", exit.Config, "", "--dir is missing"},
		{"dev --dir x --listen 8443", exit.Config, "", "write host:port"},
		{"serve --config /nonexistent/keyhole.yaml", exit.Config, "", "there is no configuration file"},
		{"check-config --config /nonexistent/keyhole.yaml", exit.Config, "", "there is no configuration file"},
		{"dev --dir " + foreign, exit.Config, "", "choose an empty or a new directory"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			status, out, errOut := command(t, strings.Fields(tt.args)...)
			if status != tt.status || !strings.Contains(out, tt.out) || !strings.Contains(errOut, tt.err) {
				t.Errorf("status %d, want %d\nstandard output, want %q:\n%s\nstandard error, want %q:\n%s", status, tt.status, tt.out, out, tt.err, errOut)
			}
			if tt.status != exit.OK && out != "" {
				t.Errorf("a failure writes to standard output: %q", out)
			}
		})
	}
}

// The statuses in the help are those in use.
func TestExitStatuses(t *testing.T) {
	t.Parallel()
	for i, status := range []int{exit.OK, exit.Failure, exit.Config, exit.HSM, exit.PIN, exit.Store, exit.Audit, exit.Listen} {
		if status != i {
			t.Errorf("status %d has moved to %d: supervisors rely on it", i, status)
		}
	}
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for status := exit.OK; status <= exit.Listen; status++ {
		if !strings.Contains(string(doc), fmt.Sprintf("\n| %d | ", status)) {
			t.Errorf("docs/operations.md does not have status %d", status)
		}
	}
	if lines := strings.Count(exit.Help, "\n"); lines != exit.Listen+1 {
		t.Errorf("the help lists %d statuses", lines)
	}
}

func TestCheckConfig(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	file := filepath.Join(dir, "keyhole.yaml")

	status, out, errOut := command(t, "check-config", "--config", file)
	if status != exit.OK || errOut != "" || !strings.Contains(out, file+" is good.") || !strings.Contains(out, "Not checked:") {
		t.Errorf("status %d\n%s\n%s", status, out, errOut)
	}
	for _, made := range []string{"keyhole.db", "audit"} {
		if _, err := os.Stat(filepath.Join(dir, made)); err == nil {
			t.Errorf("check-config made %s", made)
		}
	}
	pin, err := os.ReadFile(filepath.Join(dir, "user.pin"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, strings.TrimSpace(string(pin))) {
		t.Error("check-config shows the PIN")
	}

	configure(t, dir, "log:", "triggers: [{name: deployed, keys: [payments], reason: deployment}]\n"+
		"webhooks: [{name: siem, url: \"https://siem.example/s3cret\", signing_key: hooks, ca_file: ca.crt}]\nlog:")
	_, out, errOut = command(t, "check-config", "--config", file)
	for _, want := range []string{"siem.example, signed by hooks", "payments, reason deployment", "for destroy, delete-key", "Warning: this is a development gateway"} {
		if !strings.Contains(out, want) {
			t.Errorf("the report does not say %q:\n%s\n%s", want, out, errOut)
		}
	}
	if strings.Contains(out, "s3cret") {
		t.Error("check-config shows the URL of a webhook")
	}
	configure(t, dir, "hooks, ca_file: ca.crt", "hooks, ca_file: user.pin")

	put(t, filepath.Join(dir, "policies", "agent.cedar"), "permit (principal, action == Action::\"sing\", resource);\n")
	put(t, filepath.Join(dir, "jwks.json"), "{}")
	replace(t, file, "key_file: server.key", "key_file: ca.key")
	status, out, errOut = command(t, "check-config", "--config", file)
	if status != exit.Config || out != "" {
		t.Errorf("status %d, output %q", status, out)
	}
	for _, want := range []string{"keyhole.yaml:8: tls: ", "keyhole.yaml:32: auth: ", "keyhole.yaml:41: policies: ", "agent.cedar:1", "webhooks[0]: "} {
		if !strings.Contains(errOut, want) {
			t.Errorf("the errors do not name %q:\n%s", want, errOut)
		}
	}
}
