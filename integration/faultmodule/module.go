package faultmodule

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// Module is a built module. Other processes may use it too; the orders are one
// Module's to give. Its methods may be called concurrently, but for Add and
// Remove, which take what was given last for a start.
type Module struct {
	Path string // of the library

	mu    sync.Mutex
	given []order
	set   uint64 // how often orders were written
}

// order is a line of the file. An order that was taken back and is given again
// is another one, also when the module has not looked in between.
type order struct {
	text string
	id   uint64
}

func (o order) line() string {
	function, rest, ok := strings.Cut(o.text, " ")
	if !ok || !strings.HasPrefix(function, "C_") && function != "*" {
		return o.text
	}
	return fmt.Sprintf("%s id %d %s", function, o.id, rest)
}

// Set replaces all orders. Every call that begins after it meets the new ones.
func (m *Module) Set(orders ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set++
	before := m.given
	m.given = nil
	for _, text := range orders {
		o := order{text: strings.TrimSpace(text), id: m.set<<16 + uint64(len(m.given))}
		if i := slices.IndexFunc(before, func(old order) bool { return old.text == o.text }); i >= 0 {
			o = before[i]
			before = slices.Delete(slices.Clone(before), i, i+1)
		}
		m.given = append(m.given, o)
	}
	return m.write()
}

// Add gives more orders; the others keep their counts.
func (m *Module) Add(orders ...string) error { return m.Set(append(m.texts(), orders...)...) }

// Remove takes orders back, and lets go of what they stall.
func (m *Module) Remove(orders ...string) error {
	return m.Set(slices.DeleteFunc(m.texts(), func(o string) bool { return slices.Contains(orders, o) })...)
}

func (m *Module) texts() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, o := range m.given {
		all = append(all, o.text)
	}
	return all
}

// write makes the file of orders, whole or not at all, and says so to the
// module. m.mu is held.
func (m *Module) write() error {
	var text strings.Builder
	for _, o := range m.given {
		text.WriteString(o.line() + "\n")
	}
	tmp := m.Path + ".orders.new"
	if err := os.WriteFile(tmp, []byte(text.String()), 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, m.Path+".orders"); err != nil {
		return err
	}
	f, err := os.OpenFile(m.Path+".counts", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, m.set), 0)
	return errors.Join(err, f.Close())
}

// Counts are what has happened in a module since it was built, by all
// processes that use it. Functions have the names of PKCS#11: "C_Sign".
type Counts struct {
	WrongPINs    uint64            // since the last right one
	Sessions     uint64            // open now
	MostSessions uint64            // at one time
	Calls        map[string]uint64 // without those that ask for a size
	Faults       map[string]uint64 // calls that met an order, but delay
	Inside       map[string]uint64 // calls that have not returned
}

const (
	heads      = 4 // version, wrong PINs, sessions, most sessions
	countsSize = 8 * (heads + 3*len(functions))
)

// Counts reads them.
func (m *Module) Counts() (Counts, error) {
	b, err := os.ReadFile(m.Path + ".counts")
	if err != nil {
		return Counts{}, err
	}
	if len(b) != countsSize {
		return Counts{}, fmt.Errorf("%s.counts has %d bytes, not %d", m.Path, len(b), countsSize)
	}
	number := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
	table := func(n int) map[string]uint64 {
		t := make(map[string]uint64, len(functions))
		for i, name := range functions {
			t[name] = number(heads + n*len(functions) + i)
		}
		return t
	}
	return Counts{
		WrongPINs: number(1), Sessions: number(2), MostSessions: number(3),
		Calls: table(0), Faults: table(1), Inside: table(2),
	}, nil
}

// functions in the order of CK_FUNCTION_LIST.
var functions = [...]string{
	"C_Initialize", "C_Finalize", "C_GetInfo", "C_GetFunctionList", "C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo",
	"C_GetMechanismList", "C_GetMechanismInfo", "C_InitToken", "C_InitPIN", "C_SetPIN", "C_OpenSession", "C_CloseSession",
	"C_CloseAllSessions", "C_GetSessionInfo", "C_GetOperationState", "C_SetOperationState", "C_Login", "C_Logout",
	"C_CreateObject", "C_CopyObject", "C_DestroyObject", "C_GetObjectSize", "C_GetAttributeValue", "C_SetAttributeValue",
	"C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_EncryptInit", "C_Encrypt", "C_EncryptUpdate",
	"C_EncryptFinal", "C_DecryptInit", "C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal", "C_DigestInit", "C_Digest",
	"C_DigestUpdate", "C_DigestKey", "C_DigestFinal", "C_SignInit", "C_Sign", "C_SignUpdate", "C_SignFinal",
	"C_SignRecoverInit", "C_SignRecover", "C_VerifyInit", "C_Verify", "C_VerifyUpdate", "C_VerifyFinal",
	"C_VerifyRecoverInit", "C_VerifyRecover", "C_DigestEncryptUpdate", "C_DecryptDigestUpdate", "C_SignEncryptUpdate",
	"C_DecryptVerifyUpdate", "C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey", "C_UnwrapKey", "C_DeriveKey", "C_SeedRandom",
	"C_GenerateRandom", "C_GetFunctionStatus", "C_CancelFunction", "C_WaitForSlotEvent",
}
