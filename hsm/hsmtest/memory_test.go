package hsmtest_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"keyhole/hsm/hsmtest"
	"keyhole/keys"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	hsmtest.Run(t, func(*testing.T) hsmtest.Backend {
		return hsmtest.NewMemory(hsmtest.MemoryOptions{})
	}, hsmtest.Options{})
}

func TestMemoryWithout(t *testing.T) {
	t.Parallel()
	without := []keys.Algorithm{keys.EdDSA, keys.RSAOAEP256}
	m := hsmtest.NewMemory(hsmtest.MemoryOptions{Tokens: []string{"one", "two"}, Without: without})
	if m.DefaultToken() != "one" || !m.HasToken("two") || m.HasToken("memory") {
		t.Errorf("the default token is %q", m.DefaultToken())
	}
	for _, alg := range keys.Algorithms() {
		err := m.Capable("two", alg)
		if want := slices.Contains(without, alg); want != errors.Is(err, keys.ErrUnsupported) || !want && err != nil {
			t.Errorf("Capable(%s): %v", alg, err)
		}
	}
	ref := ref("a.v1")
	ref.Token, ref.Algorithm = "two", keys.EdDSA
	if _, err := m.Generate(t.Context(), ref); !errors.Is(err, keys.ErrUnsupported) {
		t.Errorf("Generate: %v, want ErrUnsupported", err)
	}
	if got := m.Objects(); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

func ref(label string) keys.Ref {
	return keys.Ref{Token: "memory", ID: keys.NewObjectID(), Label: label, Algorithm: keys.ES256, Bits: 256}
}

func TestObjects(t *testing.T) {
	t.Parallel()
	m := hsmtest.NewMemory(hsmtest.MemoryOptions{})
	b, a := ref("b.v1"), ref("a.v1")
	for _, r := range []keys.Ref{b, a} {
		if _, err := m.Generate(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.Objects(); !slices.Equal(got, []string{"a.v1", "b.v1"}) {
		t.Errorf("Objects: %v", got)
	}
	if err := m.Destroy(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if got := m.Objects(); !slices.Equal(got, []string{"b.v1"}) {
		t.Errorf("Objects: %v", got)
	}
}

func TestFaultyPassesTheSuite(t *testing.T) {
	t.Parallel()
	hsmtest.Run(t, func(*testing.T) hsmtest.Backend {
		// Without most of RSA, which takes long and which Faulty does not see.
		return hsmtest.NewFaulty(hsmtest.NewMemory(hsmtest.MemoryOptions{Without: rsaButOne}))
	}, hsmtest.Options{Optional: rsaButOne})
}

var rsaButOne = []keys.Algorithm{keys.RS256, keys.RS384, keys.RS512, keys.PS256, keys.PS384, keys.PS512, keys.RSAOAEP256}

func TestFail(t *testing.T) {
	t.Parallel()
	m := hsmtest.NewMemory(hsmtest.MemoryOptions{})
	f := hsmtest.NewFaulty(m)
	boom := errors.New("boom")

	f.Fail(hsmtest.Generate, 1, hsmtest.NotDone, boom)
	f.Fail(hsmtest.Generate, 2, hsmtest.Done, boom)
	f.Fail(hsmtest.Destroy, 2, hsmtest.Done, boom)
	a, b := ref("a.v1"), ref("b.v1")
	if _, err := f.Generate(t.Context(), a); !errors.Is(err, boom) || len(m.Objects()) != 0 {
		t.Errorf("not done: %v, objects %v", err, m.Objects())
	}
	if made, err := f.Generate(t.Context(), b); !errors.Is(err, boom) || len(made.Check) != 0 || len(m.Objects()) != 1 {
		t.Errorf("done but failed: %v, objects %v", err, m.Objects())
	}
	if _, err := f.Generate(t.Context(), a); err != nil {
		t.Errorf("the third call: %v", err)
	}
	if err := f.Destroy(t.Context(), b); err != nil {
		t.Errorf("the first Destroy: %v", err)
	}
	if err := f.Destroy(t.Context(), a); !errors.Is(err, boom) || len(m.Objects()) != 0 {
		t.Errorf("the second Destroy: %v, objects %v", err, m.Objects())
	}
	if f.Calls(hsmtest.Generate) != 3 || f.Calls(hsmtest.Destroy) != 2 || f.Calls(hsmtest.Sign) != 0 {
		t.Errorf("calls: %d, %d, %d", f.Calls(hsmtest.Generate), f.Calls(hsmtest.Destroy), f.Calls(hsmtest.Sign))
	}
}

func TestBlock(t *testing.T) {
	t.Parallel()
	f := hsmtest.NewFaulty(hsmtest.NewMemory(hsmtest.MemoryOptions{}))
	made, err := f.Generate(t.Context(), ref("a.v1"))
	if err != nil {
		t.Fatal(err)
	}
	r := ref("b.v1")
	entered, release := f.Block(hsmtest.Generate, 1)
	done := make(chan error, 1)
	go func() {
		_, err := f.Generate(t.Context(), r)
		done <- err
	}()
	<-entered
	select {
	case err := <-done:
		t.Errorf("not blocked: %v", err)
	default:
	}
	release()
	release()
	if err := <-done; err != nil {
		t.Errorf("released: %v", err)
	}

	entered, _ = f.Block(hsmtest.Sign, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	r.PublicKey, r.Check = made.PublicKey, made.Check
	if _, err := f.Sign(ctx, r, make([]byte, 32)); !errors.Is(err, keys.ErrTimeout) {
		t.Errorf("at the deadline: %v, want ErrTimeout", err)
	}
	<-entered
}
