package agentproto

import (
	"context"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A guest is told the time at which it is told, and again if that took long; one whose programs are to go on, before they do.
func TestClock(t *testing.T) {
	const slow, quick = time.Second, time.Millisecond
	for name, c := range map[string]struct {
		keep  bool
		dial  time.Duration
		takes []time.Duration // the exchanges, one after the other; the last of them for all that follow
		call  func(*Client, context.Context, Config) error
		want  []Op
		off   time.Duration // of the clock in the end, at most
	}{
		"a quick thaw":        {true, quick, []time.Duration{quick}, (*Client).Thaw, []Op{OpThaw}, quick},
		"a slow dial":         {true, slow, []time.Duration{quick}, (*Client).Thaw, []Op{OpConfigure, OpThaw}, quick},
		"and a slow exchange": {true, slow, []time.Duration{slow, slow, quick}, (*Client).Thaw, []Op{OpConfigure, OpConfigure, OpConfigure, OpConfigure, OpThaw}, quick},
		"a host that is slow now and then": {true, slow, []time.Duration{slow, quick, slow, quick}, (*Client).Thaw,
			append(slices.Repeat([]Op{OpConfigure}, 4), OpThaw), quick},
		"a slow thaw":              {true, quick, []time.Duration{slow, quick}, (*Client).Thaw, []Op{OpThaw, OpConfigure}, quick},
		"a boot":                   {true, slow, []time.Duration{quick}, (*Client).Configure, []Op{OpConfigure}, quick},
		"a boot after the dial":    {false, 0, []time.Duration{slow, quick}, (*Client).Configure, []Op{OpConfigure, OpConfigure}, quick},
		"a host that stays slow":   {true, slow, []time.Duration{slow}, (*Client).Thaw, append(slices.Repeat([]Op{OpConfigure}, clockTries/2+1), OpThaw), slow / 2},
		"a host that is half slow": {true, slow, []time.Duration{clockSlack * 3 / 2}, (*Client).Thaw, []Op{OpConfigure, OpConfigure, OpThaw}, clockSlack},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []Op
				var off time.Duration
				serve := func(conn net.Conn) {
					r := NewReader(conn)
					for {
						frame, err := r.Next()
						if err != nil {
							return
						}
						request, err := DecodeRequest(frame.Payload)
						if err != nil {
							t.Error(err)
							return
						}
						time.Sleep(c.takes[min(len(got), len(c.takes)-1)]) // as if all of it were spent on the way there
						got = append(got, request.Op)
						if now := request.Config.Now; !now.IsZero() {
							off = time.Since(now)
						}
						if request.Config.Hostname != "" && request.Config.Hostname != "copy" {
							t.Errorf("the name is %q", request.Config.Hostname)
						}
						if err := WriteFrame(conn, KindDone, nil); err != nil {
							return
						}
					}
				}
				client := Client{Keep: c.keep, Dial: func(context.Context) (net.Conn, error) {
					time.Sleep(c.dial)
					host, guest := net.Pipe()
					go serve(guest)
					return host, nil
				}}
				defer client.Close()
				if err := c.call(&client, t.Context(), Config{Hostname: "copy", Now: time.Now().Add(-time.Hour)}); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, c.want) || off.Abs() > c.off {
					t.Errorf("got %v, and a clock that is %v behind; want %v and %v", got, off, c.want, c.off)
				}
			})
		})
	}
}
