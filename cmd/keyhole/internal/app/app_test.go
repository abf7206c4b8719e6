package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Each error of the contract has a code of its own kind: none falls through
// to "any other error" but those that nobody can do anything about.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	byStatus := map[int]int{400: ExitUsage, 401: ExitRefused, 403: ExitRefused, 404: ExitNotFound, 405: ExitUsage, 409: ExitConflict, 413: ExitUsage, 415: ExitUsage, 422: ExitUsage, 429: ExitUnavailable, 500: ExitError, 503: ExitUnavailable}
	for code, status := range api.Codes() {
		want, ok := byStatus[status]
		if code == "decryption_failed" {
			want = ExitInvalid
		}
		err := fmt.Errorf("POST /v1/x: %w", &client.Error{Problem: api.Problem{Code: code, Status: status}})
		if got := exitCode(err); !ok || got != want {
			t.Errorf("%s (%d) is exit code %d, want %d", code, status, got, want)
		}
	}
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{&os.PathError{}, 1},
		{term.ErrNotConfirmed, 1},
		{Usagef("x"), 2},
		{fmt.Errorf("%w: x", term.ErrInput), 2},
		{term.ErrBinary, 2},
		{term.ErrNoTerminal, 2},
		{Silent{ExitInvalid}, 3},
		{&client.ConnError{Err: errors.New("x")}, 7},
		{&client.ConnError{Err: fmt.Errorf("%w: x", keys.ErrUnauthenticated)}, 4},
		{context.DeadlineExceeded, 7},
		{&ItemsError{Failed: 1, Done: 2}, 8},
		{&Stopped{Err: keys.ErrKeyNotFound}, 5},
		{fmt.Errorf("x: %w", context.Canceled), 130},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%v is exit code %d, want %d", tt.err, got, tt.want)
		}
	}
}

// report returns what is printed about an error.
func report(t *testing.T, ctx context.Context, env map[string]string, err error) (string, int) {
	t.Helper()
	var out bytes.Buffer
	a := New(Env{Streams: term.Streams{Err: &out}, Getenv: func(name string) string { return env[name] }})
	a.running = true
	code := a.Report(ctx, &cobra.Command{Use: "keyhole"}, err)
	if strings.Count(out.String(), "\n") > 1 {
		t.Errorf("more than one line: %q", out.String())
	}
	return out.String(), code
}

func TestReport(t *testing.T) {
	t.Parallel()
	problem := func(err error) error {
		p := api.ProblemOf(err)
		p.RequestID = "r-1"
		return fmt.Errorf("POST /v1/keys/x/sign: %w", &client.Error{Problem: p})
	}
	conn := func(err error) error { return &client.ConnError{Address: "https://h", Err: err} }
	for _, tt := range []struct {
		err  error
		says []string
	}{
		{problem(keys.Errorf(keys.ErrForbidden, "policy does not let you")), []string{"keyhole: policy does not let you (forbidden, request r-1); ", "whoami"}},
		{problem(keys.Errorf(keys.ErrInvalid, "evil \x1b[31m\nsecond line")), []string{`evil \x1b[31m\nsecond line (`}},
		{problem(keys.Errorf(keys.ErrKeyNotFound, "no key")), []string{"key list"}},
		{problem(keys.Errorf(keys.ErrTooLarge, "too large")), []string{"--hash"}},
		{fmt.Errorf("POST /x: %w", keys.Errorf(keys.ErrTimeout, "no answer within 1s")), []string{"keyhole: no answer within 1s\n"}},
		{conn(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), []string{"https://h", "KEYHOLE_CACERT"}},
		{conn(&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"}}), []string{"names in the gateway's certificate"}},
		{conn(&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}), []string{"expired"}},
		{conn(http.ErrSchemeMismatch), []string{"operations listener"}},
		{conn(syscall.ECONNREFUSED), []string{"does the gateway run"}},
	} {
		got, _ := report(t, t.Context(), nil, tt.err)
		for _, says := range tt.says {
			if !strings.Contains(got, says) {
				t.Errorf("%v: %q does not say %q", tt.err, got, says)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, code := report(t, ctx, nil, problem(keys.ErrInternal)); got != "keyhole: interrupted\n" || code != ExitInterrupted {
		t.Errorf("after Ctrl-C: %q, %d", got, code)
	}
	if got, code := report(t, ctx, nil, Silent{ExitInvalid}); got != "" || code != ExitInvalid {
		t.Errorf("an answer that was printed: %q, %d", got, code)
	}
}

func jwtOf(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func TestLoginHints(t *testing.T) {
	t.Parallel()
	refused := &client.Error{Problem: api.ProblemOf(keys.ErrUnauthenticated)}
	soon := time.Now().Add(time.Hour).Unix()
	for name, tt := range map[string]struct {
		env  map[string]string
		says string // "": no hint
	}{
		"nothing set":   {nil, "no credentials are set"},
		"certificate":   {map[string]string{"KEYHOLE_CERT": "c", "KEYHOLE_KEY": "k"}, ""},
		"expired":       {map[string]string{"KEYHOLE_TOKEN": jwtOf(`{"exp":1000000000}`)}, "the token expired at 2001-09-09T01:46:40Z"},
		"not yet valid": {map[string]string{"KEYHOLE_TOKEN": jwtOf(fmt.Sprintf(`{"nbf":%d}`, soon))}, "not valid before"},
		"good":          {map[string]string{"KEYHOLE_TOKEN": jwtOf(fmt.Sprintf(`{"exp":%d,"nbf":1}`, soon))}, ""},
		"timeless":      {map[string]string{"KEYHOLE_TOKEN": jwtOf(`{}`)}, ""},
		"huge exp":      {map[string]string{"KEYHOLE_TOKEN": jwtOf(`{"exp":1e300,"nbf":-1e300}`)}, ""},
		"no JWT":        {map[string]string{"KEYHOLE_TOKEN": "hunter2"}, "does not look like a JWT"},
		"no JSON":       {map[string]string{"KEYHOLE_TOKEN": jwtOf(`x`)}, "does not look like a JWT"},
		"no base64":     {map[string]string{"KEYHOLE_TOKEN": "a.!.c"}, "does not look like a JWT"},
		"no file":       {map[string]string{"KEYHOLE_TOKEN_FILE": "/nowhere/token"}, ""},
	} {
		env := map[string]string{"KEYHOLE_ADDR": "https://h"}
		for k, v := range tt.env {
			env[k] = v
		}
		got, code := report(t, t.Context(), env, refused)
		if code != ExitRefused || tt.says == "" && strings.Contains(got, "; ") || !strings.Contains(got, tt.says) || strings.Contains(got, "hunter2") {
			t.Errorf("%s: %q, %d, want %q", name, got, code, tt.says)
		}
	}
}

func TestDistance(t *testing.T) {
	t.Parallel()
	for words, want := range map[[2]string]int{
		{"", ""}: 0, {"a", ""}: 1, {"", "ab"}: 2, {"format", "fromat"}: 2, {"format", "format"}: 0, {"key", "keys"}: 1, {"abc", "xyz"}: 3,
	} {
		if got := distance(words[0], words[1]); got != want {
			t.Errorf("%q: %d, want %d", words, got, want)
		}
	}
}

func FuzzTokenTimes(f *testing.F) {
	f.Add(jwtOf(`{"exp":1,"nbf":2}`))
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		expires, begins, ok := tokenTimes(token)
		if !ok && (!expires.IsZero() || !begins.IsZero()) {
			t.Errorf("times of no token: %v, %v", expires, begins)
		}
		_ = Stamp(expires) + Stamp(begins)
	})
}
