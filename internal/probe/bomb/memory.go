package bomb

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const chunkMiB = 4

// memory takes and touches memory, MiB by MiB, then holds it until the time is over. Most sandboxes
// kill it on the way; it offers itself as the one to be killed.
func memory(limitMiB int, length time.Duration, stdout io.Writer) error {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) // not every kernel has it
	deadline := time.Now().Add(length)
	got := 0
	for got < limitMiB && time.Now().Before(deadline) {
		block, err := unix.Mmap(-1, 0, chunkMiB<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			_, err = fmt.Fprintf(stdout, "refused after %d MiB: %v\n", got, err)
			return err
		}
		// Contents that differ, so that no page is shared or compressed away.
		for i := 0; i < len(block); i += os.Getpagesize() {
			block[i], block[i+1], block[i+2] = byte(got), byte(i>>12), 1
		}
		got += chunkMiB
	}
	time.Sleep(time.Until(deadline))
	_, err := fmt.Fprintf(stdout, "took %d MiB\n", got)
	return err
}
