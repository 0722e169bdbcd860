package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/aethervm/aether/internal/kernel"
	"github.com/aethervm/aether/internal/tail"
	"github.com/aethervm/aether/sandbox"
)

const (
	suite     = "bookworm"
	keyring   = "/usr/share/keyrings/debian-archive-keyring.gpg"
	mergedUsr = "/usr/share/mmdebstrap/hooks/merged-usr"
	// kernelPackage depends on the newest kernel of the suite that is built for virtual machines.
	kernelPackage = "linux-image-cloud-amd64"
	// kernelDrop is where the kernel's package is put in the new root. It is not installed: its
	// scripts would make an initramfs.
	kernelDrop = "/root/kernel"
)

// packages of the base: what runs sandboxes (with the tools that aether's drivers call), what loads
// modules, and what a person who looks around expects.
var packages = []string{
	"qemu-system-x86", "erofs-utils", "runc", "iproute2", "iptables", "kmod", "procps", "python3", "strace", "usr-is-merged",
}

// earlyModules are needed to have a root file system and the ports; lateModules are what the lab
// is for. QEMU's guests reach the network of the lab through tun, vsock through vhost_vsock.
var (
	earlyModules = []string{"virtio_pci", "virtio_console", "nfit", "nd_pmem", "erofs", "overlay"}
	lateModules  = []string{"kvm_amd", "tun", "vhost_net", "vhost_vsock", "veth", "bridge"}
)

// mmdebstrapArgs is the command line but for the target. Documentation and translations are left
// out; what is downloaded is checked against Debian's own keys.
func mmdebstrapArgs() []string {
	args := []string{
		"--quiet", "--variant=minbase", "--mode=root", "--format=directory", "--architectures=amd64",
		"--include=" + strings.Join(packages, ","),
		"--hook-dir=" + mergedUsr,
		`--aptopt=Acquire::Languages "none"`, `--aptopt=Acquire::Retries "3"`, `--aptopt=APT::Install-Recommends "false"`,
		"--customize-hook=mkdir -p \"$1\"" + kernelDrop + " && cd \"$1\"" + kernelDrop +
			" && export APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\"" +
			" && apt-get -qq -o APT::Sandbox::User=root download" +
			" $(apt-cache depends " + kernelPackage + " | sed -n 's/.*Depends: \\(linux-image-[0-9].*\\)/\\1/p')",
		`--customize-hook=rm -rf "$1"/etc/hostname "$1"/etc/resolv.conf "$1"/etc/machine-id "$1"/var/log/*`,
	}
	for _, dir := range []string{"doc", "man", "info", "lintian", "locale"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+dir+"/*")
	}
	return args
}

// baseKey is the digest of how a base is made. A change of layout changes the first word.
func baseKey() string {
	words := []string{"1", suite, strings.Join(mmdebstrapArgs(), "\x00"), strings.Join(earlyModules, ",")}
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// makeBase makes a base directory in dir. work is a directory for what is of no use afterwards.
func makeBase(ctx context.Context, dir, work string, phase func(string)) error {
	if os.Geteuid() != 0 {
		return &sandbox.Error{Op: "lab build", Err: os.ErrPermission, Detail: "a Debian can only be installed by root",
			Remedy: "run `aether lab build` as root; `aether lab run` does not need it"}
	}
	phase("download and install Debian packages")
	root := filepath.Join(work, "root")
	if err := debootstrap(ctx, root); err != nil {
		return err
	}
	phase("unpack the kernel")
	version, err := installKernel(ctx, root, work)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	m := manifest{Kernel: version}
	if m.Early, err = copyModules(ctx, root, version, filepath.Join(dir, modulesName)); err != nil {
		return err
	}
	// The lab's own kernel is one that its guests can have, so it is kept as a guest kernel is.
	k, err := kernel.Import(filepath.Join(root, labState, "kernels"),
		filepath.Join(work, "kernel/boot/vmlinuz-"+version), filepath.Join(root, "usr/lib/modules", version))
	if err != nil {
		return err
	}
	if err := copyFile(filepath.Join(dir, vmlinuxName), k.Vmlinux()); err != nil {
		return err
	}
	phase("write the disk image")
	if err := makeDisk(ctx, filepath.Join(dir, diskName), root); err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, manifestName), m)
}

func debootstrap(ctx context.Context, root string) error {
	targets, err := run(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
	if err != nil {
		return err
	}
	sources := debianSources(targets)
	if sources == "" {
		return &sandbox.Error{Op: "lab build", Err: sandbox.ErrUnavailable,
			Detail: "apt on this host has no source for Debian " + suite, Remedy: "add one below /etc/apt/sources.list.d"}
	}
	tool, err := findTool("mmdebstrap", "mmdebstrap")
	if err != nil {
		return err
	}
	unshare, err := findTool("unshare", "util-linux")
	if err != nil {
		return err
	}
	// mmdebstrap mounts and starts things. In namespaces of its own it leaves neither behind, even
	// if it is killed, and nothing that it has mounted is ever within reach of those who clean up.
	args := append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", tool}, mmdebstrapArgs()...)
	cmd := command(ctx, unshare, append(args, suite, root, "-")...)
	cmd.Stdin = strings.NewReader(sources)
	return runCommand(cmd, nil)
}

// debianSources makes sources of the first repository that apt knows for the suite, its updates and
// its security fixes. Others that the host uses are not wanted, and need not be reachable.
func debianSources(targets string) string {
	var b strings.Builder
	seen := map[string]bool{}
	for line := range strings.Lines(targets) {
		field := strings.Fields(line)
		if len(field) != 3 || field[2] != "main" || seen[field[1]] {
			continue
		}
		switch field[1] {
		case suite, suite + "-updates", suite + "-security":
			seen[field[1]] = true
			fmt.Fprintf(&b, "deb [signed-by=%s] %s %s main\n", keyring, field[0], field[1])
		}
	}
	if !seen[suite] {
		return ""
	}
	return b.String()
}

// installKernel unpacks the kernel's package to work/kernel and moves its modules to the root. It
// returns the kernel's version.
func installKernel(ctx context.Context, root, work string) (string, error) {
	debs, err := filepath.Glob(filepath.Join(root, kernelDrop, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("install kernel: %d packages were downloaded for %s", len(debs), kernelPackage)
	}
	unpacked := filepath.Join(work, "kernel")
	if _, err := run(ctx, "dpkg-deb", "-x", debs[0], unpacked); err != nil {
		return "", err
	}
	trees, err := filepath.Glob(filepath.Join(unpacked, "lib/modules/*"))
	if err != nil || len(trees) != 1 {
		return "", fmt.Errorf("install kernel: %d module trees in %s", len(trees), filepath.Base(debs[0]))
	}
	version := filepath.Base(trees[0])
	all := filepath.Join(root, "usr/lib/modules")
	err = errors.Join(os.MkdirAll(all, 0o755), os.Rename(trees[0], filepath.Join(all, version)),
		os.RemoveAll(filepath.Join(root, kernelDrop)))
	if err != nil {
		return "", fmt.Errorf("install kernel: %w", err)
	}
	_, err = runIn(ctx, root, "/sbin/depmod", version)
	return version, err
}

// copyModules copies the early modules, and those that they depend on, to dir and returns their
// file names in the order in which they are to be loaded.
func copyModules(ctx context.Context, root, version, dir string) ([]string, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	var order []string
	for _, module := range earlyModules {
		steps, err := runIn(ctx, root, "/sbin/modprobe", "--set-version", version, "--show-depends", module)
		if err != nil {
			return nil, err
		}
		for _, path := range insmodPaths(steps) {
			name := filepath.Base(path)
			if err := copyFile(filepath.Join(dir, name), filepath.Join(root, path)); errors.Is(err, os.ErrExist) {
				continue
			} else if err != nil {
				return nil, err
			}
			order = append(order, name)
		}
	}
	return order, nil
}

// insmodPaths reads what modprobe --show-depends prints: "insmod PATH [OPTION...]" or "builtin NAME".
func insmodPaths(steps string) []string {
	var paths []string
	for line := range strings.Lines(steps) {
		if field := strings.Fields(line); len(field) >= 2 && field[0] == "insmod" {
			paths = append(paths, field[1])
		}
	}
	return paths
}

// diskAlign is the granularity in which the lab's kernel maps its disks.
const diskAlign = 2 << 20

// makeDisk makes a disk image of a tree. It is not compressed: its pages are the lab's memory.
func makeDisk(ctx context.Context, disk, tree string) error {
	tool, err := findTool("mkfs.erofs", "erofs-utils")
	if err != nil {
		return err
	}
	if err := runCommand(command(ctx, tool, "--quiet", "-T0", "-Enoinline_data", disk, tree), nil); err != nil {
		return err
	}
	info, err := os.Stat(disk)
	if err != nil {
		return err
	}
	return os.Truncate(disk, (info.Size()+diskAlign-1)/diskAlign*diskAlign)
}

func findTool(name, pkg string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &sandbox.Error{Op: "lab", Err: sandbox.ErrUnavailable, Detail: name + " is not installed",
			Remedy: "run `apt-get install " + pkg + "`"}
	}
	return path, nil
}

// command is a program whose whole process group ends with ctx.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = endPatience
	return cmd
}

// runCommand runs a program, which ends with this process; errors hold the end of what it said.
func runCommand(cmd *exec.Cmd, stdout *bytes.Buffer) error {
	// The kernel sends the death signal when the thread that made the process ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	said := tail.New(tailSize)
	cmd.Stderr = said
	cmd.Stdout = said
	if stdout != nil {
		cmd.Stdout = stdout
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, said.Last(6))
	}
	return nil
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	return runIn(ctx, "", name, args...)
}

// runIn runs a program in another root, if one is given, and returns what it prints.
func runIn(ctx context.Context, root, name string, args ...string) (string, error) {
	cmd := command(ctx, name, args...)
	if root != "" {
		cmd.SysProcAttr.Chroot, cmd.Dir = root, "/"
	}
	var out bytes.Buffer
	err := runCommand(cmd, &out)
	return out.String(), err
}
