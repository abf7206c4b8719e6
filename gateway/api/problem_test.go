package api_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// sentinels are all errors of keys, by name, and the code and status that
// callers rely on: changing one breaks them.
var sentinels = map[string]struct {
	err    error
	code   string
	status int
}{
	"ErrMalformed":       {keys.ErrMalformed, "malformed_request", 400},
	"ErrInvalid":         {keys.ErrInvalid, "invalid_argument", 422},
	"ErrUnauthenticated": {keys.ErrUnauthenticated, "unauthenticated", 401},
	"ErrForbidden":       {keys.ErrForbidden, "forbidden", 403},
	"ErrKeyNotFound":     {keys.ErrKeyNotFound, "key_not_found", 404},
	"ErrVersionNotFound": {keys.ErrVersionNotFound, "version_not_found", 404},
	"ErrNotFound":        {keys.ErrNotFound, "not_found", 404},
	"ErrKeyExists":       {keys.ErrKeyExists, "key_exists", 409},
	"ErrKeyRetired":      {keys.ErrKeyRetired, "key_name_retired", 409},
	"ErrConflict":        {keys.ErrConflict, "conflict", 409},
	"ErrRotationRunning": {keys.ErrRotationRunning, "rotation_running", 409},
	"ErrVersionState":    {keys.ErrVersionState, "version_state", 409},
	"ErrNoActiveVersion": {keys.ErrNoActiveVersion, "no_active_version", 409},
	"ErrWrongPurpose":    {keys.ErrWrongPurpose, "wrong_purpose", 422},
	"ErrDecrypt":         {keys.ErrDecrypt, "decryption_failed", 422},
	"ErrTooLarge":        {keys.ErrTooLarge, "payload_too_large", 413},
	"ErrMediaType":       {keys.ErrMediaType, "unsupported_media_type", 415},
	"ErrMethod":          {keys.ErrMethod, "method_not_allowed", 405},
	"ErrRateLimited":     {keys.ErrRateLimited, "rate_limited", 429},
	"ErrOverloaded":      {keys.ErrOverloaded, "overloaded", 503},
	"ErrTimeout":         {keys.ErrTimeout, "timeout", 503},
	"ErrHSM":             {keys.ErrHSM, "hsm_unavailable", 503},
	"ErrUnsupported":     {keys.ErrUnsupported, "unsupported_by_hsm", 422},
	"ErrAudit":           {keys.ErrAudit, "audit_unavailable", 503},
	"ErrStore":           {keys.ErrStore, "store_unavailable", 503},
	"ErrStale":           {keys.ErrStale, "state_stale", 503},
	"ErrTampered":        {keys.ErrTampered, "data_tampered", 503},
	"ErrNotSubscribed":   {keys.ErrNotSubscribed, "not_subscribed", 409},
	"ErrInUse":           {keys.ErrInUse, "version_in_use", 409},
	"ErrInternal":        {keys.ErrInternal, "internal", 500},
}

// declaredSentinels reads the names of the Err variables out of the source
// of package keys, so that a new one cannot be forgotten here or in the table.
func declaredSentinels(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../../keys/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no source of package keys: %v", err)
	}
	names := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, spec := range gen.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					if strings.HasPrefix(name.Name, "Err") {
						names[name.Name] = true
					}
				}
			}
		}
	}
	return names
}

func TestEverySentinelHasOneRow(t *testing.T) {
	t.Parallel()
	declared := declaredSentinels(t)
	for name := range declared {
		if _, ok := sentinels[name]; !ok {
			t.Errorf("keys.%s has no row in this test", name)
		}
	}
	codes := api.Codes()
	seen := map[string]string{}
	for name, want := range sentinels {
		if !declared[name] {
			t.Errorf("keys.%s is not declared any more", name)
		}
		if got := api.CodeOf(want.err); got != want.code {
			t.Errorf("keys.%s has the code %q, want %q", name, got, want.code)
		}
		if got := codes[want.code]; got != want.status {
			t.Errorf("%s has the status %d, want %d", want.code, got, want.status)
		}
		if other, ok := seen[want.code]; ok {
			t.Errorf("keys.%s and keys.%s share the code %s", name, other, want.code)
		}
		seen[want.code] = name
	}
	if len(codes) != len(declared) {
		t.Errorf("%d codes for %d sentinels", len(codes), len(declared))
	}
}

func TestProblemIsInvertible(t *testing.T) {
	t.Parallel()
	for name, want := range sentinels {
		for _, err := range []error{
			want.err,
			fmt.Errorf("doing x: %w", want.err),
			keys.Errorf(want.err, "say why"),
			fmt.Errorf("doing x: %w", keys.Errorf(want.err, "say why")),
		} {
			p := api.ProblemOf(err)
			if p.Code != want.code || p.Status != want.status || p.Type != "urn:keyhole:error:"+want.code || p.Title != want.err.Error() {
				t.Errorf("%s: %+v", name, p)
			}
			back := p.Err()
			for other, row := range sentinels {
				if errors.Is(back, row.err) != (other == name) {
					t.Errorf("%s came back as %v, which is keys.%s: %v", name, back, other, errors.Is(back, row.err))
				}
			}
			if again := api.ProblemOf(back); again.Code != p.Code || again.Status != p.Status {
				t.Errorf("%s: %+v became %+v", name, p, again)
			}
		}
		p := api.ProblemOf(keys.Errorf(want.err, "say why"))
		if internal := want.status == http.StatusInternalServerError; internal != (p.Detail == "") {
			t.Errorf("%s: the detail is %q", name, p.Detail)
		} else if !internal && p.Err().Error() != "say why" {
			t.Errorf("%s: the detail came back as %q", name, p.Err())
		}
	}
}

func TestProblemHidesInternalText(t *testing.T) {
	t.Parallel()
	const secret = "pin 1234 at /var/lib"
	for name, err := range map[string]error{
		"no sentinel":           errors.New(secret),
		"a wrapped sentinel":    fmt.Errorf("%s: %w", secret, keys.ErrHSM),
		"a wrapped detail":      fmt.Errorf("%s: %w", secret, keys.Errorf(keys.ErrInvalid, "say why")),
		"an internal detail":    keys.Errorf(keys.ErrInternal, "%s", secret),
		"a detail of no kind":   keys.Errorf(errors.New(secret), "%s", secret),
		"a deadline":            fmt.Errorf("%s: %w", secret, context.DeadlineExceeded),
		"a detail and deadline": errors.Join(keys.Errorf(keys.ErrInvalid, "%s", secret), context.Canceled),
	} {
		p := api.ProblemOf(err)
		if strings.Contains(fmt.Sprintf("%+v", p), "1234") {
			t.Errorf("%s: %+v shows internal text", name, p)
		}
	}
	if p := api.ProblemOf(io.ErrUnexpectedEOF); p.Code != "internal" || p.Status != 500 {
		t.Errorf("an unknown error is %+v", p)
	}
	for _, err := range []error{context.Canceled, context.DeadlineExceeded} {
		if p := api.ProblemOf(fmt.Errorf("x: %w", err)); p.Code != "timeout" || p.Status != 503 {
			t.Errorf("%v is %+v", err, p)
		}
	}
	if api.CodeOf(nil) != "" {
		t.Error("no error has a code")
	}
}

func TestUnknownCodeIsInternal(t *testing.T) {
	t.Parallel()
	err := api.Problem{Status: 418, Code: "teapot", Detail: "short and stout"}.Err()
	if !errors.Is(err, keys.ErrInternal) || !strings.Contains(err.Error(), "teapot") || !strings.Contains(err.Error(), "short and stout") {
		t.Errorf("an unknown code became %v", err)
	}
}
