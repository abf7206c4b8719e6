package hsm

import (
	"fmt"
	"sync"
	"testing"

	"keyhole/integration/faultmodule"
	"keyhole/softhsm"
)

// faulty is a token behind a module that fails as ordered. It is a module of
// its own, with its own C_Initialize.
type faulty struct {
	*faultmodule.T

	mu    sync.Mutex
	given map[fn]string // the order of fail
}

// fn is a function by its name in PKCS#11.
type fn string

const (
	fnInitialize  fn = "C_Initialize"
	fnFinalize    fn = "C_Finalize"
	fnTokenInfo   fn = "C_GetTokenInfo"
	fnOpenSession fn = "C_OpenSession"
	fnSessionInfo fn = "C_GetSessionInfo"
	fnLogin       fn = "C_Login"
	fnCreate      fn = "C_CreateObject"
	fnDestroy     fn = "C_DestroyObject"
	fnFindInit    fn = "C_FindObjectsInit"
	fnEncrypt     fn = "C_Encrypt"
	fnDecrypt     fn = "C_Decrypt"
	fnSign        fn = "C_Sign"
	fnGenPair     fn = "C_GenerateKeyPair"
)

const always = -1

func newFaulty(t *testing.T, tok *softhsm.Token) *faulty {
	t.Helper()
	return &faulty{T: faultmodule.New(t, tok.Module), given: map[fn]string{}}
}

// use makes a configuration use the module.
func (f *faulty) use(c *Config) { c.Tokens[0].Module = f.Path }

// fail makes the next calls of g return code; fail(g, 0, 0) ends that.
func (f *faulty) fail(g fn, code uint, times int) {
	f.order(g, times, fmt.Sprintf("return %#x", code))
}

// flag adds flags to what C_GetTokenInfo tells from now on.
func (f *faulty) flag(flags uint) { f.order(fnTokenInfo, always, fmt.Sprintf("flags %#x", flags)) }

func (f *faulty) order(g fn, times int, action string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Remove(f.given[g])
	delete(f.given, g)
	switch {
	case times == always:
		f.given[g] = fmt.Sprintf("%s %s", g, action)
	case times > 0:
		f.given[g] = fmt.Sprintf("%s to %d %s", g, times, action)
	default:
		return
	}
	f.Add(f.given[g])
}

func (f *faulty) stall(g fn)   { f.Add(string(g) + " stall") }
func (f *faulty) release(g fn) { f.Remove(string(g) + " stall") }

// calls says how often g was called.
func (f *faulty) calls(g fn) int { return f.Calls(string(g)) }
