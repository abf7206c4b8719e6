package hsmtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/keys"
)

// Options fit the suite to a backend.
type Options struct {
	// Optional algorithms may be missing; the suite tests them where the
	// backend says that it is capable of them. Every other one must be there.
	Optional []keys.Algorithm

	// NoMarks says that the token keeps no data objects.
	NoMarks bool

	// Reopen closes a backend and opens the same token again, with all its
	// keys. Nil: the backend forgets its keys when it is closed.
	Reopen func(t *testing.T, b Backend) Backend
}

// Run is the contract of a Backend. open returns a backend over an empty
// token; it is called a few times, and Run closes what it returned. The suite
// generates two dozen RSA keys, one of them of 4096 bits.
func Run(t *testing.T, open func(t *testing.T) Backend, opts Options) {
	b := opened(t, open)
	s := &suite{b: b, opts: opts}
	for _, c := range s.cases(t) {
		t.Run(c.name(), func(t *testing.T) {
			t.Parallel()
			if c.alg.Purpose() == keys.PurposeSign {
				s.testSigning(t, c)
			} else {
				s.testEncryption(t, c)
			}
		})
	}
	for name, f := range map[string]func(*testing.T){
		"Tokens":                   s.testTokens,
		"Random":                   s.testRandom,
		"GenerateRefuses":          s.testGenerateRefuses,
		"GenerateRefusesWhatIs":    s.testGenerateRefusesWhatIs,
		"Destroy":                  s.testDestroy,
		"DestroyOnlyWhatRefNames":  s.testDestroyOnlyWhatRefNames,
		"NeverAnotherKey":          s.testNeverAnotherKey,
		"ReplacedKey":              s.testReplacedKey,
		"List":                     s.testList,
		"Inspect":                  s.testInspect,
		"InspectRefuses":           s.testInspectRefuses,
		"Marks":                    s.testMarks,
		"ContextEnded":             s.testContextEnded,
		"FailuresLeaveItUsable":    s.testFailuresLeaveItUsable,
		"ConcurrentUse":            s.testConcurrentUse,
		"ConcurrentGenerateOfOne":  s.testConcurrentGenerateOfOne,
		"GeneratingDisturbsNobody": s.testGeneratingDisturbsNobody,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t)
		})
	}
	t.Run("StoreKey", func(t *testing.T) {
		t.Parallel()
		testStoreKey(t, opened(t, open))
	})
	t.Run("Close", func(t *testing.T) {
		t.Parallel()
		testClose(t, opened(t, open), opts)
	})
}

func opened(t *testing.T, open func(t *testing.T) Backend) Backend {
	t.Helper()
	b := open(t)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

type suite struct {
	b    Backend
	opts Options
}

// testCase is one algorithm in one size.
type testCase struct {
	alg  keys.Algorithm
	bits int
}

func (c testCase) name() string { return fmt.Sprintf("%s-%d", c.alg, c.bits) }

// cases returns every algorithm that the backend has, and each RSA size at
// least once.
func (s *suite) cases(t *testing.T) []testCase {
	t.Helper()
	more := map[keys.Algorithm][]int{keys.RS256: {3072, 4096}, keys.PS384: {3072}, keys.RSAOAEP: {3072}, keys.RSAOAEP256: {3072}}
	var all []testCase
	for _, alg := range keys.Algorithms() {
		if !s.has(t, alg) {
			continue
		}
		sizes := []int{0}
		if alg.Family() == keys.FamilyRSA {
			sizes = append([]int{2048}, more[alg]...)
		}
		for _, size := range sizes {
			bits, err := alg.KeyBits(size)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, testCase{alg, bits})
		}
	}
	return all
}

// has reports whether the backend is capable of alg, and that it must be.
func (s *suite) has(t *testing.T, alg keys.Algorithm) bool {
	t.Helper()
	err := s.b.Capable(s.b.DefaultToken(), alg)
	if err != nil && !errors.Is(err, keys.ErrUnsupported) {
		t.Errorf("Capable(%s): %v, want nil or ErrUnsupported", alg, err)
	}
	if err != nil && !slices.Contains(s.opts.Optional, alg) {
		t.Errorf("Capable(%s): %v; this algorithm is not optional", alg, err)
	}
	return err == nil
}

var refs atomic.Uint64

// ref names a key that does not exist yet.
func (s *suite) ref(t *testing.T, alg keys.Algorithm, bits int) keys.Ref {
	t.Helper()
	bits, err := alg.KeyBits(bits)
	if err != nil {
		t.Fatal(err)
	}
	id := keys.VersionID{Key: fmt.Sprintf("suite-%d", refs.Add(1)), Number: 1}
	return keys.Ref{Token: s.b.DefaultToken(), ID: keys.NewObjectID(), Label: id.String(), Algorithm: alg, Bits: bits}
}

// generate makes a key that lives as long as the test.
func (s *suite) generate(t *testing.T, alg keys.Algorithm, bits int) keys.Ref {
	t.Helper()
	return s.make(t, s.ref(t, alg, bits))
}

func (s *suite) make(t *testing.T, ref keys.Ref) keys.Ref {
	t.Helper()
	made, err := s.b.Generate(t.Context(), ref)
	if err != nil {
		t.Fatalf("Generate %s: %v", ref.Algorithm, err)
	}
	checkGenerated(t, ref, made)
	t.Cleanup(func() { s.destroy(t, ref) })
	return complete(ref, made)
}

func (s *suite) destroy(t *testing.T, ref keys.Ref) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.b.Destroy(ctx, ref); err != nil {
		t.Errorf("Destroy %s: %v", ref.Label, err)
	}
}

// complete is what the store knows after generation.
func complete(ref keys.Ref, made keys.Generated) keys.Ref {
	ref.PublicKey, ref.Check = made.PublicKey, made.Check
	return ref
}

// input is something that a key of the algorithm signs.
func input(alg keys.Algorithm, text string) []byte {
	if !alg.TakesDigest() {
		return []byte(text)
	}
	h := alg.Hash().New()
	h.Write([]byte(text))
	return h.Sum(nil)
}

// works shows that a key does its job and returns what it made.
func (s *suite) works(t *testing.T, ref keys.Ref) {
	t.Helper()
	if err := use(t.Context(), s.b, ref); err != nil {
		t.Errorf("%s: %v", ref.Label, err)
	}
}

// use does one round trip with a key.
func use(ctx context.Context, b Backend, ref keys.Ref) error {
	if ref.Algorithm.Purpose() == keys.PurposeSign {
		in := input(ref.Algorithm, "hello")
		sig, err := b.Sign(ctx, ref, in)
		if err != nil {
			return fmt.Errorf("Sign: %w", err)
		}
		if ok, err := b.Verify(ctx, ref, in, sig); err != nil || !ok {
			return fmt.Errorf("Verify: %v, %w", ok, err)
		}
		return nil
	}
	key, aad := random(keys.DataKeySize), random(32)
	iv, wrapped, err := b.Wrap(ctx, ref, key, aad)
	if err != nil {
		return fmt.Errorf("Wrap: %w", err)
	}
	got, err := b.Unwrap(ctx, ref, iv, wrapped, aad)
	if err != nil {
		return fmt.Errorf("Unwrap: %w", err)
	}
	if !slices.Equal(got, key) {
		return errors.New("Unwrap returned another key than was wrapped")
	}
	return nil
}

// useSecret makes the token itself work with the private or secret key, not
// software with the public one.
func useSecret(ctx context.Context, b Backend, ref keys.Ref) error {
	if ref.Algorithm.Purpose() == keys.PurposeSign {
		_, err := b.Sign(ctx, ref, input(ref.Algorithm, "hello"))
		return err
	}
	_, wrapped, err := b.Wrap(ctx, ref, random(keys.DataKeySize), nil)
	if err == nil && ref.Algorithm.Family().Asymmetric() {
		_, err = b.Unwrap(ctx, ref, nil, wrapped, nil)
	}
	return err
}
