package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/testscript"

	"keyhole/gateway"
	"keyhole/gateway/gatewaytest"
	"keyhole/keys"
)

// binary is keyhole as it is shipped, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "keyhole-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "keyhole")
		if out, err := goCommand("build", "-ldflags", "-X main.version=v9.8.7", "-o", binary, "."); err != nil {
			fmt.Fprintf(os.Stderr, "building keyhole: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// TestScripts runs each script in testdata/script against a gateway of its
// own. Beside testscript's own commands a script has
//
//	as NAME            who keyhole is from here on: admin, second (another one), agent, stranger, expired or nobody
//	exits CODE CMD...  runs a command that must exit with CODE
//	eventually CMD...  runs a command again and again until it succeeds
//	field PATH VALUE   checks a value in the JSON that was last printed, "versions.0.state"
//	keep VAR PATH      puts a value of that JSON into a variable
//	jwe FILE KEY.vN    prints a compact JWE of FILE for the public key in KEY.vN.pem
//	mode FILE BITS     checks a file's permissions
//	numbers N FILE     writes N items of a sign batch
//	auditlog DIR       makes an audit log, audit-keys.pem and kept.checkpoint: see makeLog
//	alter FILE OLD NEW replaces the first OLD in a file
//	drop FILE N        removes a line, counted from 1, or with -N the last N
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			g := gatewaytest.Start(t, gatewaytest.Options{
				Gateway: gateway.Config{Instance: "INSTANCE-ONE", Triggers: map[string]gateway.Trigger{"staff-left": {Keys: []string{"payments", "mail"}, Reason: keys.ReasonPersonnelChange}}},
			})
			heard(t, g, keys.Node{Instance: "INSTANCE-ONE", Name: "one", Version: "v9.8.7"}, time.Hour)
			heard(t, g, keys.Node{Instance: "INSTANCE-TWO", Name: "two", Version: "v9.8.6"}, time.Microsecond)
			who := people(t, g)
			cert, key := g.Certificate(t, "carol.example", gatewaytest.Agents)
			testscript.Run(t, testscript.Params{
				Files: []string{file},
				Setup: func(env *testscript.Env) error {
					env.Setenv("HOME", env.WorkDir)
					env.Setenv("PATH", filepath.Dir(binary)+string(os.PathListSeparator)+env.Getenv("PATH"))
					env.Setenv("KEYHOLE_ADDR", g.URL)
					env.Setenv("KEYHOLE_CACERT", g.CAFile)
					env.Setenv("CERT", cert)
					env.Setenv("AUDIT", filepath.Join(g.Dir, "audit"))
					env.Setenv("CERTKEY", key)
					for name, path := range who {
						env.Setenv(strings.ToUpper(name), path)
					}
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"as":    func(ts *testscript.TestScript, _ bool, args []string) { ts.Setenv("KEYHOLE_TOKEN_FILE", who[args[0]]) },
					"exits": exits, "eventually": eventually, "field": field, "keep": keep, "jwe": jwe, "mode": mode, "numbers": numbers,
					"auditlog": auditlog, "alter": alter, "drop": drop,
				},
			})
		})
	}
}

// heard has a gateway heard by the store; without another sign of life it has
// stopped when lapse is over.
func heard(t *testing.T, g *gatewaytest.Gateway, n keys.Node, lapse time.Duration) {
	t.Helper()
	if err := g.Store.Beat(t.Context(), n, lapse); err != nil {
		t.Fatal(err)
	}
}

// people are the principals of the scripts, as files of their tokens.
func people(t *testing.T, g *gatewaytest.Gateway) map[string]string {
	t.Helper()
	expired := filepath.Join(t.TempDir(), "expired.jwt")
	token := g.TokenUntil(t, time.Now().Add(-time.Hour), "bob", gatewaytest.Agents)
	if err := os.WriteFile(expired, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"admin": g.TokenFile(t, "alice", gatewaytest.Admins), "agent": g.TokenFile(t, "bob", gatewaytest.Agents),
		"second": g.TokenFile(t, "dave", gatewaytest.Admins), "stranger": g.TokenFile(t, "mallory"), "expired": expired, "nobody": "",
	}
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		coded, ok := err.(interface{ ExitCode() int })
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = coded.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if errs := ts.ReadFile("stderr"); strings.Count(errs, "keyhole: ") > 1 || want > 0 && errs != "" && !strings.HasSuffix(errs, "\n") {
		ts.Fatalf("more than one line of errors: %q", errs)
	}
}

func eventually(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(20 * time.Second)
	for ts.Exec(args[0], args[1:]...) != nil {
		if time.Now().After(deadline) {
			ts.Fatalf("it did not succeed within 20 s")
		}
	}
}

// lookup finds a value in the JSON last printed.
func lookup(ts *testscript.TestScript, path string) string {
	var v any
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	dec.UseNumber()
	ts.Check(dec.Decode(&v))
	for step := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			if step == "length" {
				v = len(at)
				break
			}
			i, err := strconv.Atoi(step)
			ts.Check(err)
			if i >= len(at) {
				ts.Fatalf("no element %d in %s", i, path)
			}
			v = at[i]
		default:
			v = nil
		}
	}
	return fmt.Sprint(v)
}

func field(ts *testscript.TestScript, neg bool, args []string) {
	if got := lookup(ts, args[0]); (got == args[1]) == neg {
		ts.Fatalf("%s is %q", args[0], got)
	}
}

func keep(ts *testscript.TestScript, _ bool, args []string) { ts.Setenv(args[0], lookup(ts, args[1])) }

func jwe(ts *testscript.TestScript, _ bool, args []string) {
	block, _ := pem.Decode([]byte(ts.ReadFile(args[1] + ".pem")))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	ts.Check(err)
	enc, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: pub, KeyID: args[1]}, nil)
	ts.Check(err)
	obj, err := enc.Encrypt([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	text, err := obj.CompactSerialize()
	ts.Check(err)
	fmt.Fprintln(ts.Stdout(), text)
}

func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has the mode %s, want %s", args[0], got, args[1])
	}
}

func numbers(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"payload\":\"%08d\"}\n", i)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(b.String()), 0o600))
}
