package agentproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

// A guest that lists a directory without end, of a few long names or of many short ones, is cut off.
func TestListingIsBounded(t *testing.T) {
	for name, size := range map[string]int{"long names": 1 << 20, "short names": 1} {
		t.Run(name, func(t *testing.T) {
			entry := AppendFrame(nil, KindEntry, AppendFileInfo(nil, sandbox.FileInfo{Name: strings.Repeat("n", size)}))
			batch := []byte(strings.Repeat(string(entry), max(1, (1<<16)/len(entry))))
			sent := make(chan int, 1)
			c := Client{Dial: func(context.Context) (net.Conn, error) {
				host, guest := net.Pipe()
				go func() { _, _ = io.Copy(io.Discard, guest) }()
				go func() {
					total := 0
					for {
						n, err := guest.Write(batch)
						if total += n; err != nil || total > 4*maxNames {
							_ = guest.Close()
							sent <- total
							return
						}
					}
				}()
				return host, nil
			}}
			if _, err := c.ReadDir(t.Context(), "/"); !errors.Is(err, ErrProtocol) {
				t.Errorf("%v", err)
			}
			if n := <-sent; n > 2*maxNames {
				t.Errorf("%d MiB were taken", n>>20)
			}
		})
	}
}

// An agent that is older than the operation is told from one that fails.
func TestConnectOfAnOlderAgent(t *testing.T) {
	for said, unsupported := range map[error]bool{
		fmt.Errorf("%w: %s", ErrProtocol, unknownOperation(OpConnect)): true,
		fmt.Errorf("%w: %s", ErrProtocol, unknownOperation(OpExamine)): false,
		sandbox.ErrRefused: false,
	} {
		c := Client{Dial: func(context.Context) (net.Conn, error) {
			host, guest := net.Pipe()
			go func() {
				_, _ = NewReader(guest).Next()
				_ = WriteFrame(guest, KindFail, NewFailure(said).Append(nil))
			}()
			return host, nil
		}}
		if err := c.Connect(t.Context(), "/s", nil, nil); err == nil || errors.Is(err, sandbox.ErrUnsupported) != unsupported {
			t.Errorf("%v: %v", said, err)
		}
	}
}
