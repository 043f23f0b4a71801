# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The page in the browser: show it good parts, then ask. ``anople page`` starts it.

A thin layer over the package's own Python interface. :mod:`.session` and :mod:`.taking` have no user interface;
:mod:`.page` puts Gradio on top of them.
"""
