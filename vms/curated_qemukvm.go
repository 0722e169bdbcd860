package vms

func qemuKVM() []Evidence {
	security := source{"QEMU 7.2 manual, Security", "https://www.qemu.org/docs/master/system/security.html", "2022-12"}
	images := source{"QEMU 7.2 manual, Disk Images, VM snapshots", "https://www.qemu.org/docs/master/system/images.html", "2022-12"}
	monitor := source{"QEMU 7.2 manual, QEMU Monitor", "https://www.qemu.org/docs/master/system/monitor.html", "2022-12"}
	guestAgent := source{"QEMU guest agent, manual and qga/commands.c", "https://www.qemu.org/docs/master/interop/qemu-ga.html", "2022-12"}
	return []Evidence{
		published("start.cold.p50_ms", 243.4, "median of 500 boots, "+nsdiBoot, nsdiData),
		published("start.cold.p99_ms", 254.6, "99th percentile of the same 500 boots", nsdiData),
		published("start.burst8.p99_ms", 232.5, nsdiBurst, nsdiData),

		published("density.idle_mib", 144.1, nsdiRSS, nsdiData),
		judged("density.fixed_mib", 0, "no daemon: each VM is one process; libvirt, where used, is another system's", security),
		noted(Density, 131, "MB", "what the VMM itself adds to a VM of any size; not scored, because guest memory is left out", nsdiPaper),

		judged("isolation.separate_kernel_ratio", 1, "a machine emulator: every VM boots its own kernel", security),
		judged("isolation.hardware_boundary_ratio", 1, "guest code runs on virtualisation extensions; with TCG, for which the "+
			"manual promises no isolation, this would be 0.5", security),
		judged("isolation.syscalls_count", 0, "system calls of guest code are answered by the guest's kernel", security),

		judged("snapshot.memory_survives_ratio", 1, "savevm keeps CPU, RAM and device state", images),
		judged("snapshot.files_survive_ratio", 1, "savevm keeps the content of all writable disks", images),
		judged("snapshot.pause_ratio", 1, "the monitor has stop and cont", monitor),

		judged("control.jobs_ratio", 7.0/8, "monitor and guest agent together: life cycle, exec, captured streams, files, "+
			"statistics, pause and snapshot; no call for several VMs from one snapshot", guestAgent),
	}
}
