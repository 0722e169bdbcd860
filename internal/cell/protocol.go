package cell

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"syscall"

	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/vmm"
)

// The owner and the cell talk over a pair of connected SOCK_SEQPACKET sockets: a packet is a message is
// a JSON object. Descriptors travel from the owner to the cell only; what a cell attaches to its
// messages, the kernel drops, because the owner gives it no room. The exception is a branch: the owner makes a
// socket for it and takes one packet from that.
//
//	owner                                cell
//	confine                          ->
//	                                 <-  confined, with the layers that the cell has applied
//	                                 <-  reply to confine, or an error
//	admit, with a socket and a pipe  ->  only if it is to have several virtual machines: all that follows is said over
//	                                     the socket, and the pipe is for the console
//	                                 <-  reply to admit
//	boot, with what is to be built   ->  of the files that come with it
//	                                 <-  reply to boot: the guest runs, or an error
//	dial, with a stream socket       ->
//	cancel, with the ID of a dial    ->
//	pause, resume                    ->
//	branch, with a packet socket     ->  over which the cell sends the branch, before its reply
//	touched                          ->  its reply has the memory that the guest has used
//	give-back                        ->  its reply has how much of the guest's memory was given back
//	sent                             ->  its reply has how much the guest has sent to its network card
//	memory                           ->  its reply has the layers that the memory is in, or the pages that are in none
//	                                 <-  reply, with the ID of the request
//	                                 <-  flow: open one for the guest; resolve: look up a name
//	answer, with a socket or an error ->
//	                                 <-  denied: what the guest was refused, for the record
//	                                 <-  ended, the last one: how the guest has ended
//
// Both ends are of the same build, so that the version only guards against two builds that meet.

// protocolVersion is part of confine.
const protocolVersion = 6

// maxMessage is the size of the largest message in bytes. It is far below what a socket buffers.
const maxMessage = 64 << 10

type kind string

const (
	kindConfine  kind = "confine"
	kindAdmit    kind = "admit"
	kindBoot     kind = "boot"
	kindConfined kind = "confined"
	kindDial     kind = "dial"
	kindCancel   kind = "cancel"
	kindPause    kind = "pause"
	kindResume   kind = "resume"
	kindBranch   kind = "branch"
	kindTouched  kind = "touched"
	kindSent     kind = "sent"
	kindMemory   kind = "memory"
	kindGiveBack kind = "give-back"
	kindReply    kind = "reply"
	kindFlow     kind = "flow"
	kindResolve  kind = "resolve"
	kindAnswer   kind = "answer"
	kindDenied   kind = "denied"
	kindEnded    kind = "ended"
)

// message is any message; which fields count depends on its kind.
type message struct {
	Kind kind `json:"kind"`
	// ID pairs requests with replies. Each side counts its own.
	ID      uint64          `json:"id,omitempty"`
	Confine *confineMessage `json:"confine,omitempty"`
	Boot    *bootMessage    `json:"boot,omitempty"`
	Layers  Confinement     `json:"layers,omitempty"`
	Port    uint32          `json:"port,omitempty"`
	Copies  int             `json:"copies,omitempty"` // that a branch is for
	Flow    *flowMessage    `json:"flow,omitempty"`
	Name    string          `json:"name,omitempty"`
	Addrs   []netip.Addr    `json:"addrs,omitempty"`
	// Pages are runs of pages of RAM: the first one, and twice their number, and one more if they were written.
	Pages []uint64 `json:"pages,omitempty"`
	// Sent is what the guest has sent to its network card, in bytes.
	Sent int64 `json:"sent,omitempty"`
	// Given is the memory that was given back, in bytes.
	Given uint64 `json:"given,omitempty"`
	// Memory is a request about where the memory is, and the reply to one.
	Memory  *memoryMessage `json:"memory,omitempty"`
	End     *endMessage    `json:"end,omitempty"`
	Failure *failure       `json:"failure,omitempty"`
}

// confineMessage is how the process is to confine itself, for a virtual machine of that size.
type confineMessage struct {
	Version   int `json:"version"`
	VCPUs     int `json:"vcpus"`
	MemoryMiB int `json:"memory_mib"`
	// Places is how many virtual machines of that size share the process; 0 if it has one, over the link that this comes over.
	Places int `json:"places,omitempty"`
	// User is the user that the cell is to become; 0 if it is it already, or none is free.
	User uint32 `json:"user,omitempty"`
	// OwnUser says that nobody else counts as the cell's user.
	OwnUser bool `json:"own_user,omitempty"`
	// Mounts says that the cell is in a mount namespace of its own, whose root it is to change.
	Mounts bool `json:"mounts,omitempty"`
	// UserNamespace says that it is in a user namespace of its own.
	UserNamespace bool `json:"user_namespace,omitempty"`
	// Filter is the system call filter, 8 bytes an instruction, in the kernel's form.
	Filter []byte `json:"filter,omitempty"`
	// Attempt is what a test has the confined cell try.
	Attempt string `json:"attempt,omitempty"`
}

// bootMessage is what the cell is to build. The files come with it, in this order: the kernel, and the initramfs
// if there is one, or a branch's state and layers; the disks.
type bootMessage struct {
	Initramfs bool `json:"initramfs,omitempty"`
	// Branch says that the virtual machine goes on from a branch with so many Layers. Cmdline does not count.
	Branch  bool         `json:"branch,omitempty"`
	Layers  int          `json:"branch_layers,omitempty"`
	Disks   int          `json:"disks,omitempty"`
	Cmdline string       `json:"cmdline,omitempty"`
	Network *networkPart `json:"network,omitempty"`
}

// files is how many files come with it.
func (b *bootMessage) files() int {
	n := 1 + b.Disks
	switch {
	case b.Branch:
		n += b.Layers
	case b.Initramfs:
		n++
	}
	return n
}

// maxBootFiles bounds the files that come with boot. The kernel takes 253 in one message (SCM_MAX_FD).
const maxBootFiles = 1 + vmm.MaxLayers + vmm.MaxDisks

// networkPart is the part of a network that the cell has.
type networkPart struct {
	Allow     []vmm.Rule    `json:"allow,omitempty"`
	Interface vmm.Interface `json:"interface"`
	// Report says that somebody wants to know what was denied.
	Report bool `json:"report,omitempty"`
}

type flowMessage struct {
	Protocol string         `json:"protocol"`
	To       netip.AddrPort `json:"to"`
	Count    int64          `json:"count,omitempty"` // of denied
}

type endMessage struct {
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
}

// failure is an error that crosses the socket: its kind, for errors.Is, and its text.
type failure struct {
	Kind string `json:"kind,omitempty"`
	Text string `json:"text"`
}

// failureKinds are the errors that keep what they are.
func failureKinds() map[string]error {
	return map[string]error{
		"config":    vmm.ErrConfig,
		"kernel":    vmm.ErrKernel,
		"refused":   syscall.ECONNREFUSED,
		"ended":     ErrEnded,
		"cancelled": context.Canceled,
		// What there is not enough of.
		"memory":      syscall.ENOMEM,
		"descriptors": syscall.EMFILE,
		"space":       syscall.ENOSPC,
		"processes":   syscall.EAGAIN,
	}
}

// Bounds of what a cell may say.
const (
	maxText   = 4 << 10
	maxLayers = 16
	maxAddrs  = 64
	maxName   = 255 // of the domain name system
	maxDenied = 1 << 32
)

// fail makes a failure of an error; nil of nil.
func fail(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Text: clip(err.Error())}
	if errors.Is(err, vmm.ErrEnded) {
		f.Kind = "ended"
	}
	for name, target := range failureKinds() {
		if errors.Is(err, target) {
			f.Kind = name
		}
	}
	return f
}

// err makes an error of a failure; nil of nil.
func (f *failure) err() error {
	if f == nil {
		return nil
	}
	return &remoteError{text: f.Text, kind: failureKinds()[f.Kind]}
}

// remoteError is an error of the other side.
type remoteError struct {
	text string
	kind error // may be nil
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

// clip shortens a text to what a message may have.
func clip(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.ToValidUTF8(text, "?")
}

// printable drops what a guest could use against a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\ufffd' {
			return -1
		}
		return r
	}, text)
}

func encode(m *message) ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %q message: %w", m.Kind, err)
	}
	if len(b) > maxMessage {
		return nil, fmt.Errorf("a %q message of %d bytes; up to %d are possible", m.Kind, len(b), maxMessage)
	}
	return b, nil
}

// decode reads a message of the other side. Whatever the bytes are, it returns a message within all
// bounds or an error.
func decode(b []byte) (message, error) {
	var m message
	if len(b) > maxMessage {
		return message{}, fmt.Errorf("a message of %d bytes", len(b))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return message{}, fmt.Errorf("decode message: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return message{}, errors.New("decode message: something follows it")
	}
	if err := m.check(); err != nil {
		return message{}, fmt.Errorf("%.16q message: %w", string(m.Kind), err)
	}
	return m, nil
}

// check holds a message to what its kind needs, and cleans texts that will be shown.
func (m *message) check() error {
	if f := m.Failure; f != nil {
		if len(f.Text) > maxText {
			return errors.New("its error is too long")
		}
		f.Text = printable(f.Text)
	}
	if len(m.Layers) > maxLayers || len(m.Addrs) > maxAddrs || len(m.Name) > maxName || len(m.Pages) > 2*snapshot.MaxRuns {
		return errors.New("it is too long")
	}
	if m.Memory != nil {
		if err := m.Memory.check(); err != nil {
			return err
		}
	}
	missing := false
	switch m.Kind {
	case kindConfine:
		if missing = m.Confine == nil; !missing && (m.Confine.Places < 0 || m.Confine.Places > MaxPlaces) {
			return fmt.Errorf("%d places", m.Confine.Places)
		}
	case kindBoot:
		if missing = m.Boot == nil; missing {
			break
		}
		if m.Boot.Layers < 0 || m.Boot.Layers > vmm.MaxLayers || m.Boot.Disks < 0 || m.Boot.Disks > vmm.MaxDisks {
			return fmt.Errorf("%d layers, %d disks", m.Boot.Layers, m.Boot.Disks)
		}
	case kindConfined:
		for i, l := range m.Layers {
			if len(l.Name) > 32 || len(l.Detail) > maxText {
				return errors.New("a layer is too long")
			}
			m.Layers[i].Name, m.Layers[i].Detail = printable(l.Name), printable(l.Detail)
		}
	case kindFlow, kindDenied:
		if missing = m.Flow == nil; !missing {
			switch m.Flow.Protocol {
			case "tcp", "udp", "dns":
			default:
				if m.Flow.Protocol != "" || m.Kind != kindDenied {
					return fmt.Errorf("protocol %.16q", m.Flow.Protocol)
				}
			}
			if m.Flow.Count < 0 || m.Flow.Count > maxDenied {
				return errors.New("its count is out of range")
			}
			if m.Flow.To.Addr().Zone() != "" {
				return errors.New("its address has a zone")
			}
		}
		m.Name = printable(m.Name)
	case kindEnded:
		if missing = m.End == nil; !missing {
			if len(m.End.Reason) > 64 || len(m.End.Detail) > maxText {
				return errors.New("its end is too long")
			}
			m.End.Reason, m.End.Detail = printable(m.End.Reason), printable(m.End.Detail)
		}
	case kindMemory:
		missing = m.Memory == nil
	case kindReply:
		if m.Sent < 0 {
			return errors.New("what was sent is negative")
		}
	case kindAdmit, kindDial, kindCancel, kindPause, kindResume, kindBranch, kindTouched, kindGiveBack, kindSent, kindResolve, kindAnswer:
	default:
		return errors.New("its kind is unknown")
	}
	if missing {
		return errors.New("it is incomplete")
	}
	return nil
}
