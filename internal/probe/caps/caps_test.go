package caps

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNamesHaveTheKernelsNumbers(t *testing.T) {
	for number, name := range map[int]string{
		unix.CAP_CHOWN: "CHOWN", unix.CAP_NET_RAW: "NET_RAW", unix.CAP_SYS_ADMIN: "SYS_ADMIN", unix.CAP_MKNOD: "MKNOD",
		unix.CAP_SETFCAP: "SETFCAP", unix.CAP_SYSLOG: "SYSLOG", unix.CAP_BPF: "BPF", unix.CAP_CHECKPOINT_RESTORE: "CHECKPOINT_RESTORE",
	} {
		if got := (Set(1) << number).Names(); !slices.Equal(got, []string{name}) {
			t.Errorf("capability %d is %v, not %s", number, got, name)
		}
	}
	if len(names) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names, the last capability is %d", len(names), unix.CAP_LAST_CAP)
	}
}

func TestHarmless(t *testing.T) {
	want := []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "AUDIT_WRITE", "SETFCAP"}
	if got := Harmless.Names(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestParse(t *testing.T) {
	const docker = "00000000a80425fb" // the default of Docker 20.10
	s, err := Parse(docker)
	if err != nil || !slices.Equal((s&^Harmless).Names(), []string{"NET_RAW", "MKNOD"}) {
		t.Errorf("%v, %v", s.Names(), err)
	}
	for _, bad := range []string{"", "x", "1ffffffffffffffff"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
	if got := Set(1 << 63).Names(); !slices.Equal(got, []string{"63"}) {
		t.Errorf("%v", got)
	}
}
