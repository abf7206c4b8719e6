package faultmodule

import (
	"path/filepath"
	"testing"
)

// T is the module of a test: what goes wrong with it fails the test.
type T struct {
	*Module
	tb testing.TB
}

// New builds a module for a test, in a directory of its own. At the test's end
// its orders are taken back, so that nothing stalls any more.
func New(tb testing.TB, realModule string) *T {
	tb.Helper()
	m, err := Build(filepath.Join(tb.TempDir(), "fault.so"), realModule)
	if err != nil {
		tb.Fatal(err)
	}
	t := &T{m, tb}
	tb.Cleanup(func() { t.Set() })
	return t
}

// Set replaces all orders.
func (t *T) Set(orders ...string) {
	t.tb.Helper()
	t.check(t.Module.Set(orders...))
}

// Add gives more orders.
func (t *T) Add(orders ...string) {
	t.tb.Helper()
	t.check(t.Module.Add(orders...))
}

// Remove takes orders back.
func (t *T) Remove(orders ...string) {
	t.tb.Helper()
	t.check(t.Module.Remove(orders...))
}

// Counts reads what has happened.
func (t *T) Counts() Counts {
	t.tb.Helper()
	c, err := t.Module.Counts()
	t.check(err)
	return c
}

// Calls is how many calls of a function there were. The function must exist.
func (t *T) Calls(function string) int { t.tb.Helper(); return t.of(t.Counts().Calls, function) }

// Faults is how many calls of a function met an order.
func (t *T) Faults(function string) int { t.tb.Helper(); return t.of(t.Counts().Faults, function) }

// Inside is how many calls of a function have not returned.
func (t *T) Inside(function string) int { t.tb.Helper(); return t.of(t.Counts().Inside, function) }

func (t *T) of(table map[string]uint64, function string) int {
	t.tb.Helper()
	n, ok := table[function]
	if !ok {
		t.tb.Fatalf("there is no function %s", function)
	}
	return int(n)
}

func (t *T) check(err error) {
	t.tb.Helper()
	if err != nil {
		t.tb.Fatalf("fault module: %v", err)
	}
}
