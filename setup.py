"Installs what settings.ini describes."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

parser = ConfigParser(delimiters=['='])
parser.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(Path(__file__).parent/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    url=cfg['git_url'],
    author=cfg['author'],
    license='Apache-2.0',
    keywords=cfg['keywords'],
    packages=find_packages(include=[cfg['lib_name'], cfg['lib_name'] + '.*']),
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require={name: cfg[f'{name}_requirements'].split() for name in ('dev', 'app', 'docs', 'fid')},
    package_data={cfg['lib_name']: ['py.typed', 'weights/*']},
    data_files=[('share/edm_nbdev', [f'nbs/{name}' for name in  # for edm_playground
                                     ('11_playground.ipynb', '11_playground.html.j2', '15_clothes.png')])],
    entry_points={'console_scripts': cfg['console_scripts'].split()},
)
