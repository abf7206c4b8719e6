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

// Module is a built module. Its methods may be called concurrently, also while
// other processes use the module.
type Module struct {
	Path string // of the library

	mu     sync.Mutex
	orders []string
	set    uint64 // how often orders were written
}

// Set replaces all orders. Every call that begins after it meets the new ones.
func (m *Module) Set(orders ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.write(slices.Clone(orders))
}

// Add gives one more order; the others keep their counts.
func (m *Module) Add(orders ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.write(append(slices.Clone(m.orders), orders...))
}

// Remove takes orders back, and lets go of what they stall.
func (m *Module) Remove(orders ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.write(slices.DeleteFunc(slices.Clone(m.orders), func(o string) bool { return slices.Contains(orders, o) }))
}

// write makes the file of orders, whole or not at all, and says so to the
// module. m.mu is held.
func (m *Module) write(orders []string) error {
	text := strings.Join(append(orders, ""), "\n")
	tmp := m.Path + ".orders.new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, m.Path+".orders"); err != nil {
		return err
	}
	m.orders = orders
	m.set++
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
