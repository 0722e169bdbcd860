package machine

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/initramfs"
)

// smallInit is a program of a few hundred bytes that says what it is told to and switches the machine off.
func smallInit(t *testing.T, text string) []byte {
	t.Helper()
	const base, headers = 0x400000, 64 + 56
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov $SYS_write, %eax
		0xbf, 1, 0, 0, 0, // mov $1, %edi
		0x48, 0x8d, 0x35, 0, 0, 0, 0, // lea text(%rip), %rsi
		0xba, 0, 0, 0, 0, // mov $length, %edx
		0x0f, 0x05, // syscall
		0xb8, 16, 0, 0, 0, // mov $SYS_ioctl, %eax: tcdrain
		0xbf, 1, 0, 0, 0, // mov $1, %edi
		0xbe, 0x09, 0x54, 0, 0, // mov $TCSBRK, %esi
		0xba, 1, 0, 0, 0, // mov $1, %edx
		0x0f, 0x05, // syscall
		0xb8, 169, 0, 0, 0, // mov $SYS_reboot, %eax
		0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov $LINUX_REBOOT_MAGIC1, %edi
		0xbe, 0x69, 0x19, 0x12, 0x28, // mov $LINUX_REBOOT_MAGIC2, %esi
		0xba, 0xdc, 0xfe, 0x21, 0x43, // mov $LINUX_REBOOT_CMD_POWER_OFF, %edx
		0x0f, 0x05, // syscall
		0xeb, 0xfe, // jmp .
	}
	const afterLea, length = 17, 18
	binary.LittleEndian.PutUint32(code[afterLea-4:], uint32(len(code)-afterLea))
	binary.LittleEndian.PutUint32(code[length:], uint32(len(text)))
	size := uint64(headers + len(code) + len(text))
	var out bytes.Buffer
	for _, v := range []any{
		elf.Header64{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
		},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 4096},
		code, []byte(text),
	} {
		if err := binary.Write(&out, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// A guest of 64 MiB, of which Debian's kernel takes 50 while it boots, gets as far as its first program.
func TestLinuxSmall(t *testing.T) {
	const text = "a small guest is up\n"
	// The crypto tests of a kernel that boots take memory.
	m := bootFiles(t, 1, 64, "cryptomgr.notests", []initramfs.File{{Name: "init", Mode: 0o755, Data: smallInit(t, text)}})
	end := waitLinux(t, m)
	if end.Reason != PoweredOff || !strings.Contains(string(end.Console), strings.TrimSpace(text)) {
		t.Errorf("ended with %v; console:\n%s", end, end.Console)
	}
}
