package vms

func cloudHypervisor() []Evidence {
	readme := source{"Cloud Hypervisor README",
		"https://github.com/cloud-hypervisor/cloud-hypervisor/blob/main/README.md", "2026"}
	snapshots := source{"Cloud Hypervisor docs/snapshot_restore.md",
		"https://github.com/cloud-hypervisor/cloud-hypervisor/blob/main/docs/snapshot_restore.md", "2026"}
	api := source{"Cloud Hypervisor docs/api.md",
		"https://github.com/cloud-hypervisor/cloud-hypervisor/blob/main/docs/api.md", "2026"}
	return []Evidence{
		published("start.cold.p50_ms", 101.8, "median of 500 boots, "+nsdiBoot, nsdiData),
		published("start.cold.p99_ms", 105.8, "99th percentile of the same 500 boots", nsdiData),
		published("start.burst8.p99_ms", 129.0, nsdiBurst, nsdiData),

		published("density.idle_mib", 129.5, nsdiRSS, nsdiData),
		judged("density.fixed_mib", 0, "no daemon: the API is served by the process of the VM", api),
		noted(Density, 13, "MB", "what the VMM itself adds to a VM of any size; not scored, because guest memory is left out", nsdiPaper),

		judged("isolation.separate_kernel_ratio", 1, "a VMM: every VM boots its own kernel", readme),
		judged("isolation.hardware_boundary_ratio", 1, "guest code runs on KVM or MSHV vCPUs", readme),
		judged("isolation.syscalls_count", 0, "system calls of guest code are answered by the guest's kernel", readme),

		judged("snapshot.memory_survives_ratio", 1, "the restored VM is identical to the one that was saved", snapshots),
		judged("snapshot.files_survive_ratio", 0.5, "the snapshot holds configuration, RAM and device state; the disks are the user's to keep", snapshots),
		judged("snapshot.pause_ratio", 1, "pause and resume are API calls, and a snapshot needs the first", snapshots),

		judged("control.jobs_ratio", 5.0/8, "life cycle, counters, pause, snapshot and new VMs from one snapshot; no exec, streams or files", api),
	}
}
