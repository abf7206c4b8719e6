package authz_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"keyhole/authz"
	"keyhole/authz/authztest"
)

func TestBadGroupFiles(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, says string }{
		"empty":          {"", ""},
		"null":           {"null", "write {}"},
		"a list":         {"[a, b]", ""},
		"not YAML":       {"a: [", ""},
		"a group twice":  {"a: [mtls:x]\na: [mtls:y]", "a"},
		"no list":        {"a: mtls:x", ""},
		"a number":       {"a: [1]", "is no principal"},
		"no principal":   {"a: [alice]", `"alice" is no principal`},
		"a line break":   {`"a\nb": [mtls:x]`, "printable"},
		"two documents":  {"a: [mtls:x]\n---\nb: [mtls:x]", ""},
		"too long":       {"#" + strings.Repeat("x", 1<<20), "bytes"},
		"a nested group": {"a: [[mtls:x]]", ""},
	} {
		file := authztest.WriteFile(t, "groups.yaml", []byte(tt.text))
		_, err := authz.NewAuthenticator(context.Background(), authz.Config{GroupsFile: file})
		if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want an error with the file and %q", name, err, tt.says)
		}
	}
}

// TestReloadOfGroups: remembered tokens get the new groups.
func TestReloadOfGroups(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	file := authztest.WriteFile(t, "groups.yaml", []byte("admins: [jwt:corp:alice]\n"))
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.File(t)}, GroupsFile: file})
	token := corp.Token(t, corp.Claims("alice", c.now()))
	if p := accept(t, a, token, nil); !slices.Equal(p.Groups, []string{"admins"}) {
		t.Errorf("groups %q", p.Groups)
	}
	writeFile(t, file, "dev: [jwt:corp:alice]\n")
	if err := a.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	if p := accept(t, a, token, nil); !slices.Equal(p.Groups, []string{"dev"}) {
		t.Errorf("groups %q after the reload", p.Groups)
	}
}
