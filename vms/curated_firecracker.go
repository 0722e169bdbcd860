package vms

func firecracker() []Evidence {
	design := source{"Firecracker design document",
		"https://github.com/firecracker-microvm/firecracker/blob/main/docs/design.md", "2026"}
	specification := source{"Firecracker SPECIFICATION.md",
		"https://github.com/firecracker-microvm/firecracker/blob/main/SPECIFICATION.md", "2026"}
	snapshots := source{"Firecracker docs/snapshotting/snapshot-support.md, version of 2021",
		"https://github.com/firecracker-microvm/firecracker/blob/main/docs/snapshotting/snapshot-support.md", "2021"}
	api := source{"Firecracker API specification 1.16.0-dev",
		"https://github.com/firecracker-microvm/firecracker/blob/main/src/firecracker/swagger/firecracker.yaml", "2026"}
	return []Evidence{
		published("start.cold.p50_ms", 160.9, "median of 500 boots, API calls included, "+nsdiBoot, nsdiData),
		published("start.cold.p99_ms", 172.5, "99th percentile of the same 500 boots", nsdiData),
		published("start.burst8.p99_ms", 189.0, nsdiBurst, nsdiData),
		noted(StartLatency, 125, "ms", "promised upper bound from the InstanceStart call to /sbin/init with the serial "+
			"console off; not scored, because it leaves out the start of the process and its configuration", specification),

		published("density.idle_mib", 129.0, nsdiRSS, nsdiData),
		judged("density.fixed_mib", 0, "no daemon: each process holds one microVM and nothing is shared", design),
		noted(Density, 5, "MiB", "promised upper bound of what the VMM's threads add to a 128 MiB microVM; not scored, "+
			"because guest memory is left out", specification),

		judged("isolation.separate_kernel_ratio", 1, "every microVM boots its own Linux kernel", design),
		judged("isolation.hardware_boundary_ratio", 1, "guest code runs on KVM vCPUs", design),
		judged("isolation.syscalls_count", 0, "system calls of guest code are answered by the guest's kernel", design),

		judged("snapshot.memory_survives_ratio", 1, "guest memory and device state are saved and resumed", snapshots),
		judged("snapshot.files_survive_ratio", 0.5, "disks are flushed, but keeping their content with the snapshot is the user's task", snapshots),
		judged("snapshot.pause_ratio", 1, "PATCH /vm pauses and resumes all vCPUs", snapshots),
		published("snapshot.restore.p50_ms", 5, "90th percentile target of the project's CI for 2 vCPUs and 512 MiB on m5d.metal, "+
			"so the median is no more; ends when the VM resumes, ours at the first exec reply, when pages have been faulted in", snapshots),
		judged("snapshot.fork.clock_ratio", 0, "the guest's wall clock goes on from the moment of the snapshot until the guest sets it", snapshots),

		judged("control.jobs_ratio", 5.0/8, "life cycle, statistics, pause, snapshot and several VMs from one snapshot; "+
			"no exec, streams or files, for which users bring their own agent", api),
	}
}
