package gateway

import (
	"bytes"
	"testing"
)

// FuzzDER: what is taken as DER is the one spelling of those two numbers.
func FuzzDER(f *testing.F) {
	for _, seed := range [][]byte{
		{0x30, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01},
		{0x30, 0x08, 0x02, 0x02, 0x00, 0xff, 0x02, 0x02, 0x00, 0x80},
		{0x30, 0x81, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01},
		{0x30, 0x80, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01, 0x00, 0x00},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		for _, bits := range []int{256, 384, 521} {
			raw, err := ecdsaRaw(der, bits)
			if err != nil {
				continue
			}
			if len(raw) != 2*((bits+7)/8) {
				t.Fatalf("%d bits: %d bytes", bits, len(raw))
			}
			if back, err := ecdsaDER(raw); err != nil || !bytes.Equal(back, der) {
				t.Fatalf("%x came back as %x, %v", der, back, err)
			}
		}
	})
}
