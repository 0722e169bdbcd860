// Package mountinfo reads the mount tables of /proc.
package mountinfo

import (
	"strconv"
	"strings"
)

// Mount is a line of a mountinfo file (proc_pid_mountinfo(5)).
type Mount struct {
	Root         string // directory of the file system that is mounted
	Point        string // where, relative to the process's root
	Options      []string
	Type, Source string
	SuperOptions []string
}

// Parse reads a line of mountinfo; ok is false if it is not one.
func Parse(line string) (_ Mount, ok bool) {
	// Optional fields stand between the sixth field and a single hyphen.
	before, after, found := strings.Cut(line, " - ")
	head, tail := strings.Fields(before), strings.Fields(after)
	if !found || len(head) < 6 || len(tail) < 2 {
		return Mount{}, false
	}
	m := Mount{
		Root: unescape(head[3]), Point: unescape(head[4]), Options: strings.Split(head[5], ","),
		Type: tail[0], Source: unescape(tail[1]),
	}
	if len(tail) > 2 {
		m.SuperOptions = strings.Split(tail[2], ",")
	}
	return m, true
}

// unescape undoes the kernel's octal escapes of blanks and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
