package integration

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// framer is an HTTP/2 connection that does what clients should not.
type framer struct {
	*http2.Framer
	t    *testing.T
	conn net.Conn
	g    *gateway
	told map[http2.SettingID]uint32 // the gateway's settings
}

func (g *gateway) framer(t *testing.T) *framer {
	t.Helper()
	c, err := g.dialAs(t.Context(), "h2")
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	must(t, c.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(c, http2.ClientPreface)
	must(t, err)
	f := &framer{http2.NewFramer(c, c), t, c, g, map[http2.SettingID]uint32{}}
	must(t, f.WriteSettings())
	for len(f.told) == 0 {
		frame, err := f.ReadFrame()
		must(t, err)
		if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
			must(t, s.ForeachSetting(func(s http2.Setting) error { f.told[s.ID] = s.Val; return nil }))
		}
	}
	must(t, f.WriteSettingsAck())
	return f
}

// block is the header block of a POST.
func (f *framer) block(extra ...hpack.HeaderField) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, h := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: "/v1/keys/payments/sign"}, {Name: ":authority", Value: "x"},
		{Name: "content-type", Value: "application/json"}, {Name: "authorization", Value: "Bearer " + f.g.line(agent+".jwt")},
	}, extra...) {
		must(f.t, e.WriteField(h))
	}
	return b.Bytes()
}

// over reads what comes until the gateway hangs up, or asks it to (GOAWAY).
func (f *framer) over() bool {
	for {
		frame, err := f.ReadFrame()
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			return false
		}
		if err != nil {
			return true
		}
		if _, ok := frame.(*http2.GoAwayFrame); ok {
			return true
		}
	}
}

// Each of these costs the gateway a connection at most, and others are served
// meanwhile and afterwards.
func TestHTTP2Attacks(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	g.serves()
	before := g.goroutines()
	for _, attack := range []struct {
		name string
		ends bool // by the gateway
		do   func(t *testing.T, f *framer)
	}{
		{"a header without end", true, func(_ *testing.T, f *framer) { // CVE-2024-27316 and others
			err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block()})
			fragment := bytes.Repeat([]byte{0, 1, 'a', 1, 'b'}, 3000)
			for i := 0; i < 10000 && err == nil; i++ {
				err = f.WriteContinuation(1, false, fragment)
			}
		}},
		{"too long a list of headers", false, func(t *testing.T, f *framer) {
			var many []hpack.HeaderField
			for range 40 {
				many = append(many, hpack.HeaderField{Name: "x-long", Value: string(bytes.Repeat([]byte("a"), 1000)), Sensitive: true})
			}
			block := f.block(many...)
			half := len(block) / 2
			must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:half], EndStream: true}))
			must(t, f.WriteContinuation(1, true, block[half:]))
			if status := f.status(1); status != "431" {
				t.Errorf("it is answered %s", status)
			}
		}},
		// Whether it is hung up on depends on how fast its requests are done with.
		{"rapid reset", false, func(_ *testing.T, f *framer) { // CVE-2023-44487
			var err error
			for i := 0; i < 200000 && err == nil; i++ {
				id := uint32(2*i + 1)
				if err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(), EndHeaders: true}); err == nil {
					err = f.WriteRSTStream(id, http2.ErrCodeCancel)
				}
			}
		}},
		{"pings without reading", true, func(_ *testing.T, f *framer) { // CVE-2019-9512
			var err error
			for i := 0; i < 4_000_000 && err == nil; i++ {
				err = f.WritePing(false, [8]byte{byte(i)})
			}
		}},
		{"settings without reading", false, func(_ *testing.T, f *framer) { // CVE-2019-9515
			var err error
			for i := 0; i < 100_000 && err == nil; i++ {
				err = f.WriteSettings()
			}
		}},
		{"too many streams", false, func(t *testing.T, f *framer) {
			most := f.told[http2.SettingMaxConcurrentStreams]
			if most == 0 || most > 256 {
				t.Fatalf("%d streams at one time are allowed", most)
			}
			for i := range most + 10 { // their bodies do not come
				must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: f.block(), EndHeaders: true}))
			}
			for refused := 0; refused < 10; {
				frame, err := f.ReadFrame()
				if err != nil {
					return // it has hung up
				}
				switch frame := frame.(type) {
				case *http2.GoAwayFrame:
					return
				case *http2.RSTStreamFrame:
					if frame.ErrCode != http2.ErrCodeRefusedStream && frame.ErrCode != http2.ErrCodeProtocol || frame.StreamID < 2*most {
						t.Errorf("stream %d: %v", frame.StreamID, frame.ErrCode)
					}
					refused++
				}
			}
		}},
		{"a window that stays shut", false, func(t *testing.T, f *framer) {
			must(t, f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
			for i := range uint32(20) {
				must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: f.block(), EndHeaders: true}))
				must(t, f.WriteData(2*i+1, true, []byte(helloBody)))
			}
			if status := f.status(1); status != "200" {
				t.Errorf("it is answered %s", status)
			}
		}},
	} {
		t.Run(attack.name, func(t *testing.T) {
			f := g.framer(t)
			attack.do(t, f)
			g.serves()
			if attack.ends && !f.over() {
				t.Error("the gateway does not hang up")
			}
			_ = f.conn.Close()
			g.serves()
			g.ends(before)
		})
	}
}

// status reads frames until the header of an answer.
func (f *framer) status(stream uint32) string {
	f.t.Helper()
	d := hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return err.Error()
		}
		h, ok := frame.(*http2.HeadersFrame)
		if !ok {
			continue
		}
		fields, err := d.DecodeFull(h.HeaderBlockFragment())
		must(f.t, err)
		if h.StreamID == stream {
			for _, field := range fields {
				if field.Name == ":status" {
					return field.Value
				}
			}
		}
	}
}
