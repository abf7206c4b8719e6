package nss

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/hsm"
	"keyhole/hsm/hsmtest"
	"keyhole/integration/faultmodule"
	"keyhole/keys"
	"keyhole/softhsm"
)

// childEnv names the module, and says that this is the process with its tokens.
const childEnv = "KEYHOLE_NSS_MODULE"

// tokensNeeded are as many as the tests use, for each -count.
func tokensNeeded() int {
	n := 5
	if f, ok := flag.Lookup("test.count").Value.(flag.Getter); ok {
		if count, ok := f.Get().(uint); ok {
			n *= int(count)
		}
	}
	return n
}

// TestMain runs the tests in a child that is not root and has a home with
// p11-kit's configuration.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(childEnv) != "" {
		for i := range tokensNeeded() {
			free = append(free, fmt.Sprintf("nss-%d", i+1))
		}
		os.Exit(m.Run())
	}
	code, err := child()
	if err != nil {
		fmt.Fprintln(os.Stderr, "nss:", err)
		code = 1
	}
	os.Exit(code)
}

func child() (int, error) {
	dir, err := os.MkdirTemp("", "keyhole-nss-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	tokens, err := New(dir, tokensNeeded())
	if err != nil {
		return 0, err
	}
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		return 0, err
	}
	copied := filepath.Join(dir, "nss.test") // where others may run it
	if err := os.WriteFile(copied, self, 0o700); err != nil {
		return 0, err
	}
	soft, err := softhsm.New(filepath.Join(dir, "softhsm"), "beside")
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(copied, os.Args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), tokens.Env...), childEnv+"="+tokens.Module, "TMPDIR="+dir, "SOFTHSM2_CONF="+soft.Conf)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := AsUser(cmd, dir); err != nil {
		return 0, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// free are the labels of tokens that no test has taken.
var (
	freeMu sync.Mutex
	free   []string
)

// label is that of a token that nobody has used.
func label(t *testing.T) string {
	t.Helper()
	freeMu.Lock()
	defer freeMu.Unlock()
	if len(free) == 0 {
		t.Fatal("all tokens are taken: raise their number")
	}
	l := free[0]
	free = free[1:]
	return l
}

// start opens an NSS token, and others beside it.
func start(t *testing.T, label string, others ...hsm.TokenConfig) *hsm.HSM {
	t.Helper()
	h, err := hsm.Open(context.Background(), hsm.Config{
		Tokens: append([]hsm.TokenConfig{{
			Name: "nss", Module: os.Getenv(childEnv), Label: label, CanaryInterval: 20 * time.Millisecond,
			PIN: func() ([]byte, error) { return []byte(pin), nil },
		}}, others...),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// TestCapabilities: what NSS does, by round trips. What it lists is more.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	info := start(t, label(t)).Describe()[0]
	if info.KeepsMarks {
		t.Error("NSS makes data objects now: run the contract with marks")
	}
	var can, not []string
	for _, alg := range keys.Algorithms() {
		if info.Capabilities[alg] {
			can = append(can, string(alg))
		} else {
			not = append(not, fmt.Sprintf("%s (%s)", alg, info.Limits[alg]))
		}
	}
	t.Logf("%s %s: %s; not %s", info.Manufacturer, info.Model, strings.Join(can, " "), strings.Join(not, ", "))
}

// TestContract is what SoftHSM passes too.
func TestContract(t *testing.T) {
	t.Parallel()
	var labels sync.Map // of the backends
	hsmtest.Run(t, func(t *testing.T) hsmtest.Backend {
		l := label(t)
		h := start(t, l)
		labels.Store(h, l)
		return h
	}, hsmtest.Options{
		Optional: []keys.Algorithm{keys.EdDSA},
		NoMarks:  true,
		Reopen: func(t *testing.T, b hsmtest.Backend) hsmtest.Backend {
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			l, _ := labels.Load(b)
			return start(t, l.(string))
		},
	})
}

// TestBesideSoftHSM has a token of each module in one process, with keys on
// both. SoftHSM fails for a while; NSS serves all the time.
func TestBesideSoftHSM(t *testing.T) {
	t.Parallel()
	tok, err := softhsm.Open(filepath.Dir(os.Getenv("SOFTHSM2_CONF")), "beside")
	if err != nil {
		t.Fatal(err)
	}
	f := faultmodule.New(t, tok.Module)
	h := start(t, label(t), hsm.TokenConfig{
		Name: "soft", Module: f.Path, Label: tok.Label, CanaryInterval: 20 * time.Millisecond,
		PIN: func() ([]byte, error) { return []byte(tok.PIN), nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	refs := map[string]keys.Ref{}
	for _, token := range h.Tokens() {
		ref := keys.Ref{Token: token, ID: keys.NewObjectID(), Algorithm: keys.ES256, Bits: 256}
		ref.Label = "on-" + token + "-" + ref.ID.String()[:8] + ".v1" // another one for each -count
		made, err := h.Generate(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		ref.PublicKey, ref.Check = made.PublicKey, made.Check
		refs[token] = ref
	}
	sign := func(token string) error {
		digest := make([]byte, 32)
		sig, err := h.Sign(t.Context(), refs[token], digest)
		if err != nil {
			return err
		}
		if ok, err := h.Verify(t.Context(), refs[token], digest, sig); !ok || err != nil {
			t.Errorf("%s: a signature that is not valid: %v", token, err)
		}
		return nil
	}
	ready := func(n int) bool {
		for _, th := range h.Health() {
			if th.Ready {
				n--
			}
		}
		return n == 0
	}
	// until serves from NSS all the while.
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); <-time.After(time.Millisecond) {
			if err := sign("nss"); err != nil {
				t.Fatalf("while %s: NSS: %v", what, err)
			}
			if time.Now().After(deadline) {
				t.Fatalf("never: %s", what)
			}
		}
	}
	until("both are ready", func() bool { return ready(2) })
	f.Set("* return CKR_DEVICE_ERROR", "C_Initialize return CKR_DEVICE_ERROR")
	until("SoftHSM is down", func() bool { return ready(1) && sign("soft") != nil && f.Faults("C_Initialize") > 1 })
	f.Set()
	until("both are ready again", func() bool { return ready(2) && sign("soft") == nil })
}
