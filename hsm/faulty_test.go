package hsm

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"keyhole/softhsm"
)

// faulty is a real module, SoftHSM, behind one that follows orders: see
// testdata/faulty.c. It is a module of its own, with its own C_Initialize.
type faulty struct {
	t      *testing.T
	path   string
	orders *os.File
}

// fn is a function's place in CK_FUNCTION_LIST.
type fn int64

const (
	fnInitialize  fn = 0
	fnFinalize    fn = 1
	fnTokenInfo   fn = 6
	fnOpenSession fn = 12
	fnSessionInfo fn = 15
	fnLogin       fn = 18
	fnCreate      fn = 20
	fnDestroy     fn = 22
	fnFindInit    fn = 26
	fnEncrypt     fn = 30
	fnDecrypt     fn = 34
	fnSign        fn = 43
	fnGenPair     fn = 59
)

const always = -1

func newFaulty(t *testing.T, tok *softhsm.Token) *faulty {
	t.Helper()
	f := &faulty{t: t, path: filepath.Join(t.TempDir(), "faulty.so")}
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-o", f.path, "testdata/faulty.c", "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	lib, err := os.ReadFile(tok.Module)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path+".real", lib, 0o700); err != nil {
		t.Fatal(err)
	}
	if f.orders, err = os.Create(f.path + ".orders"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.orders.Close() })
	if err := f.orders.Truncate(68 * 16); err != nil {
		t.Fatal(err)
	}
	return f
}

// use makes a configuration use the module.
func (f *faulty) use(c *Config) { c.Tokens[0].Module = f.path }

func (f *faulty) set(g fn, field int64, v int32) {
	f.t.Helper()
	if _, err := f.orders.WriteAt(binary.NativeEndian.AppendUint32(nil, uint32(v)), int64(g)*16+4*field); err != nil {
		f.t.Fatal(err)
	}
}

// fail makes the next calls of g return code.
func (f *faulty) fail(g fn, code uint, times int32) {
	f.t.Helper()
	f.set(g, 0, int32(code))
	f.set(g, 1, times)
}

func (f *faulty) stall(g fn)   { f.set(g, 2, 1) }
func (f *faulty) release(g fn) { f.set(g, 2, 0) }

// calls says how often g was called.
func (f *faulty) calls(g fn) int {
	f.t.Helper()
	var b [4]byte
	if _, err := f.orders.ReadAt(b[:], int64(g)*16+12); err != nil {
		f.t.Fatal(err)
	}
	return int(binary.NativeEndian.Uint32(b[:]))
}
